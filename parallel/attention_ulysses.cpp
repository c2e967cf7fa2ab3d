// Ulysses: an all-to-all turns all heads of local tokens into this rank's heads of all tokens, and back.

#include "core/ops/convert.h"
#include "parallel/attention_exchange.h"

namespace spanwise {

namespace {

/// Which heads each rank attends with, and how buffers between tokens and heads are laid out: for every peer,
/// its [queries | keys | values] of R · capacity tokens.
class HeadTrade {
 public:
  HeadTrade(Context& ctx, Comm& comm, const SequencePlan& plan, const SequenceAttention& in)
      : ctx_(ctx),
        comm_(comm),
        plan_(plan),
        tokens_(plan.num_local_rows() * plan.partition().capacity()),
        dtype_(in.q.value().dtype()) {
    const int64_t ranks = comm.size(), heads = in.q.dim(2), kv_heads = in.k.dim(2);
    if (heads % ranks != 0 || (kv_heads % ranks != 0 && ranks % kv_heads != 0)) {
      fail_user(
          "parallel.attention: ULYSSES cannot share {} query and {} key heads among {} sequence ranks: the "
          "query heads must be a multiple of the ranks, and the key heads a multiple or a divisor; choose "
          "ALL_GATHER or RING",
          heads, kv_heads, ranks);
    }
    q_ = {heads, heads / ranks, in.q.dim(3), 1};
    const int64_t shared = kv_heads >= ranks ? 1 : ranks / kv_heads,
                  kv = kv_heads >= ranks ? kv_heads / ranks : 1;
    k_ = {kv_heads, kv, in.k.dim(3), shared};
    v_ = {kv_heads, kv, in.v.dim(3), shared};
    out_ = {heads, heads / ranks, in.v.dim(3), 1};
  }

  struct Heads {
    Tensor q, k, v;  ///< [B, T, this rank's heads, d]
  };
  Heads to_heads(std::string_view name, const Tensor& q, const Tensor& k, const Tensor& v) const {
    const std::vector<Tensor> whole = trade_tokens(name, {q, k, v}, {q_, k_, v_});
    return {whole[0], whole[1], whole[2]};
  }
  Tensor out_to_tokens(std::string_view name, const Tensor& out) const {
    return trade_heads(name, {out}, {out_})[0];
  }
  Tensor out_to_heads(std::string_view name, const Tensor& dout) const {
    return trade_tokens(name, {dout}, {out_})[0];
  }
  /// Gradients of the local tokens; a key head that several ranks had gets their sum.
  AttentionBackward to_tokens(std::string_view name, const AttentionBackward& grads) const {
    const std::vector<Tensor> local = trade_heads(name, {grads.dq, grads.dk, grads.dv}, {q_, k_, v_});
    return {local[0], local[1], local[2]};
  }

 private:
  /// Heads of one operand: all of them, a rank's, and how many ranks have the same ones.
  struct Operand {
    int64_t heads, per_rank, dim, shared;
    int64_t width() const { return per_rank * dim; }
  };

  int64_t elems(const std::vector<Operand>& operands) const {
    int64_t width = 0;
    for (const Operand& o : operands) width += o.width();
    return tokens_ * width;
  }

  /// From a local [R · capacity, heads · dim] to each peer's part of the buffer.
  std::vector<MovedBlock> to_peers(const Operand& o, int64_t peer_stride, int64_t offset) const {
    std::vector<MovedBlock> blocks;
    for (int peer = 0; peer < comm_.size(); ++peer) {
      blocks.push_back({.rows = tokens_,
                        .width = o.width(),
                        .from = peer / o.shared * o.width(),
                        .from_stride = o.heads * o.dim,
                        .to = peer * peer_stride + offset,
                        .to_stride = o.width()});
    }
    return blocks;
  }

  /// Local tokens with all heads → whole rows with this rank's heads.
  std::vector<Tensor> trade_tokens(std::string_view name, const std::vector<Tensor>& local,
                                   const std::vector<Operand>& operands) const {
    const int64_t stride = elems(operands);
    const Tensor sent = Tensor::empty(ctx_, {comm_.size() * stride}, dtype_);
    int64_t offset = 0;
    for (size_t i = 0; i < local.size(); offset += tokens_ * operands[i++].width())
      copy_blocks(ctx_, local[i].to_contiguous(ctx_), sent, to_peers(operands[i], stride, offset));
    const Tensor received = Tensor::empty(ctx_, sent.shape(), dtype_);
    comm_.all_to_all(name, sent, received).wait();

    std::vector<Tensor> whole;
    offset = 0;
    for (const Operand& o : operands) {
      whole.push_back(
          Tensor::empty(ctx_, {plan_.batch(), plan_.partition().length(), o.per_rank, o.dim}, dtype_));
      copy_blocks(ctx_, received, whole.back(), to_whole_rows(plan_, stride, offset, o.width()));
      offset += tokens_ * o.width();
    }
    return whole;
  }

  /// The way back, and its transpose: ranks that had the same heads add up. Padding gets zeros.
  std::vector<Tensor> trade_heads(std::string_view name, const std::vector<Tensor>& whole,
                                  const std::vector<Operand>& operands) const {
    const int64_t stride = elems(operands);
    const Tensor sent = Tensor::zeros(ctx_, {comm_.size() * stride}, dtype_);
    int64_t offset = 0;
    for (size_t i = 0; i < whole.size(); offset += tokens_ * operands[i++].width())
      copy_blocks(ctx_, whole[i], sent, reversed(to_whole_rows(plan_, stride, offset, operands[i].width())));
    const Tensor received = Tensor::empty(ctx_, sent.shape(), dtype_);
    comm_.all_to_all(name, sent, received).wait();

    std::vector<Tensor> local;
    offset = 0;
    for (const Operand& o : operands) {
      const Tensor sum =
          Tensor::zeros(ctx_, {plan_.num_local_rows(), plan_.partition().capacity(), o.heads, o.dim},
                        o.shared > 1 ? accumulation_dtype(dtype_) : dtype_);
      add_blocks(ctx_, received, sum, reversed(to_peers(o, stride, offset)));
      local.push_back(converted(ctx_, sum, dtype_));
      offset += tokens_ * o.width();
    }
    return local;
  }

  Context& ctx_;
  Comm& comm_;
  const SequencePlan& plan_;
  int64_t tokens_;
  DType dtype_;
  Operand q_, k_, v_, out_;
};

KeyRanges whole_row_ranges(const SequencePlan& plan, int64_t window) {
  KeyRanges ranges;
  for (int64_t row = 0; row < plan.batch(); ++row) {
    for (int64_t token = 0; token < plan.partition().length(); ++token) {
      const KeyRange range = causal_key_range(plan, row, token, window);
      ranges.begin.push_back(range.begin);
      ranges.end.push_back(range.end);
    }
  }
  return ranges;
}

}  // namespace

Var ulysses_attention(Tape& tape, Comm& comm, const SequencePlan& plan, const SequenceAttention& in) {
  Context& ctx = tape.context();
  const HeadTrade trade(ctx, comm, plan, in);
  const HeadTrade::Heads heads = tape.once(
      [&] { return trade.to_heads("attention_forward", in.q.value(), in.k.value(), in.v.value()); });
  AttentionInputs inputs{heads.q, heads.k, heads.v, whole_row_ranges(plan, in.window), in.scale};
  const AttentionForward forward = softmax_attention_fwd(ctx, inputs);
  const Var out =
      tape.output(tape.once([&] { return trade.out_to_tokens("attention_forward_return", forward.out); }),
                  {in.q, in.k, in.v});
  tape.record({in.q, in.k, in.v}, {out},
              [&ctx, in = in.adjoints(), out = out.adjoint(), trade, forward, inputs = std::move(inputs)] {
                const Tensor dout = trade.out_to_heads("attention_backward", out.grad());
                const AttentionBackward grads = trade.to_tokens(
                    "attention_backward_return", softmax_attention_bwd(ctx, dout, inputs, forward));
                in.q.add_grad(ctx, grads.dq);
                in.k.add_grad(ctx, grads.dk);
                in.v.add_grad(ctx, grads.dv);
              });
  return out;
}

}  // namespace spanwise
