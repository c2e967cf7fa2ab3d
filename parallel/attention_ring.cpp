// Ring attention. Step s works on the keys and values of rank − s while the next ones are under way. Backward
// sends keys and values round again, and behind them the gradients that each rank adds to: those of a rank's
// block start at its successor and arrive after W − 1 steps, when its own share joins them. What grows from
// step to step, outputs and gradients, is kept and sent in the accumulation_dtype and rounded once.

#include <algorithm>

#include "core/ops/accumulate.h"
#include "core/ops/convert.h"
#include "parallel/attention_exchange.h"

namespace spanwise {

namespace {

/// What a step needs, without the Vars.
class Ring {
 public:
  Ring(Context& ctx, Comm& comm, const SequencePlan& plan, const SequenceAttention& in)
      : ctx_(ctx),
        comm_(comm),
        plan_(plan),
        k_shape_(merged(in.k.shape())),
        v_shape_(merged(in.v.shape())),
        sums_dtype_(accumulation_dtype(in.q.value().dtype())),
        q_(in.q.value().reshape(merged(in.q.shape()))),
        ranges_(local_query_ranges(plan, in.window)),
        scale_(in.scale) {
    own_ = Tensor::empty(ctx, {k_shape_.numel() + v_shape_.numel()}, q_.dtype());
    own_.slice_flat(0, k_shape_).copy_from(in.k.value());
    own_.slice_flat(k_shape_.numel(), v_shape_).copy_from(in.v.value());
  }

  AttentionForward forward() const {
    AttentionForward total;
    Tensor block = own_;
    for (int step = 0; step < comm_.size(); ++step) {
      Rotation next = step + 1 < comm_.size() ? rotate("attention_forward", block) : Rotation{};
      const AttentionInputs in = inputs(step, block);
      if (step == 0) {
        total = softmax_attention_fwd(ctx_, in);
      } else if (reads_any(in.ranges)) {
        total.out = converted(ctx_, total.out, sums_dtype_);
        merge_attention(ctx_, total, softmax_attention_fwd(ctx_, in), in.ranges);
      }
      next.ticket.wait();
      block = next.received;
    }
    total.out = converted(ctx_, total.out, q_.dtype());
    return total;
  }

  /// Gradients of the local queries, keys and values; in the merged shapes.
  AttentionBackward backward(const Tensor& dout, const AttentionForward& total) const {
    AttentionBackward own;
    Tensor block = own_, travelling;
    for (int step = 0; step < comm_.size(); ++step) {
      Rotation next = step + 1 < comm_.size() ? rotate("attention_backward", block) : Rotation{};
      const AttentionInputs in = inputs(step, block);
      if (step == 0) {
        own = softmax_attention_bwd(ctx_, dout, in, total);
      } else {
        Rotation gradients = add_step(dout, in, total, own.dq, travelling);
        gradients.ticket.wait();
        travelling = gradients.received;
      }
      next.ticket.wait();
      block = next.received;
    }
    own.dq = converted(ctx_, own.dq, q_.dtype());
    if (travelling.defined()) {
      join(own.dk, travelling.slice_flat(0, k_shape_));
      join(own.dv, travelling.slice_flat(k_shape_.numel(), v_shape_));
    }
    return own;
  }

 private:
  /// To the next rank and from the one before.
  struct Rotation {
    Tensor received;
    Ticket ticket;
  };
  Rotation rotate(std::string_view name, const Tensor& block) const {
    const int ranks = comm_.size(), rank = comm_.rank();
    const Tensor received = Tensor::empty(ctx_, block.shape(), block.dtype());
    return {received,
            comm_.exchange(name, {{(rank + 1) % ranks, block}}, {{(rank + ranks - 1) % ranks, received}})};
  }

  /// Adds a step's gradients to dq and to those that travel with the block, and sends the latter on.
  Rotation add_step(const Tensor& dout, const AttentionInputs& in, const AttentionForward& total, Tensor& dq,
                    Tensor travelling) const {
    if (!travelling.defined()) travelling = Tensor::zeros(ctx_, own_.shape(), sums_dtype_);
    if (reads_any(in.ranges)) {
      dq = converted(ctx_, dq, sums_dtype_);
      const AttentionBackward grads = softmax_attention_bwd(ctx_, dout, in, total);
      accumulate(ctx_, dq, grads.dq);
      accumulate(ctx_, travelling.slice_flat(0, k_shape_), grads.dk);
      accumulate(ctx_, travelling.slice_flat(k_shape_.numel(), v_shape_), grads.dv);
    }
    return rotate("attention_backward", travelling);
  }

  /// own += travelling, rounded once.
  void join(const Tensor& own, const Tensor& travelling) const {
    if (own.dtype() == travelling.dtype()) return accumulate(ctx_, own, travelling);
    accumulate(ctx_, travelling, own);
    convert(ctx_, travelling, own);
  }

  AttentionInputs inputs(int step, const Tensor& block) const {
    const int source = (comm_.rank() + comm_.size() - step) % comm_.size();
    return {q_, block.slice_flat(0, k_shape_), block.slice_flat(k_shape_.numel(), v_shape_),
            ranges_on(source), scale_};
  }

  /// The queries' ranges among the keys of one rank, slot behind slot. They stay contiguous: slots ascend,
  /// and a slot with padding has only empty ones behind it.
  KeyRanges ranges_on(int rank) const {
    const SequencePartition& p = plan_.partition();
    const auto place = [&](int64_t token) {
      int64_t at = 0;
      for (int slot = 0; slot < p.slots(); ++slot) {
        const int part = p.part(rank, slot);
        at += std::clamp(token, p.begin(part), p.end(part)) - p.begin(part);
      }
      return at;
    };
    KeyRanges local = ranges_;
    for (int64_t& begin : local.begin) begin = place(begin);
    for (int64_t& end : local.end) end = place(end);
    return local;
  }

  static bool reads_any(const KeyRanges& ranges) { return ranges.begin != ranges.end; }
  /// A row's slots behind each other: [B, slots · capacity, heads, d].
  Shape merged(const Shape& local) const {
    return {plan_.batch(), local[0] / plan_.batch() * local[1], local[2], local[3]};
  }

  Context& ctx_;
  Comm& comm_;
  const SequencePlan& plan_;
  Shape k_shape_, v_shape_;
  DType sums_dtype_;
  Tensor q_, own_;  ///< own_: [keys | values] of this rank
  KeyRanges ranges_;
  double scale_;
};

}  // namespace

Var ring_attention(Tape& tape, Comm& comm, const SequencePlan& plan, const SequenceAttention& in) {
  Context& ctx = tape.context();
  const Ring ring(ctx, comm, plan, in);
  const AttentionForward forward = tape.once([&] { return ring.forward(); });
  const Var out = tape.output(forward.out.reshape({in.q.dim(0), in.q.dim(1), in.q.dim(2), in.v.dim(3)}),
                              {in.q, in.k, in.v});
  tape.record({in.q, in.k, in.v}, {out}, [&ctx, in = in.adjoints(), out = out.adjoint(), ring, forward] {
    const AttentionBackward grads = ring.backward(out.grad().reshape(forward.out.shape()), forward);
    in.q.add_grad(ctx, grads.dq.reshape(in.q.shape()));
    in.k.add_grad(ctx, grads.dk.reshape(in.k.shape()));
    in.v.add_grad(ctx, grads.dv.reshape(in.v.shape()));
  });
  return out;
}

}  // namespace spanwise
