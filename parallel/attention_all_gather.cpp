#include <algorithm>

#include "core/ops/convert.h"
#include "parallel/attention_exchange.h"
#include "parallel/halo.h"

namespace spanwise {

KeyRange causal_key_range(const SequencePlan& plan, int64_t row, int64_t token, int64_t window) {
  const int64_t document = plan.document_begin(row, token);
  return {window == 0 ? document : std::max(document, token + 1 - window), token + 1};
}

KeyRanges local_query_ranges(const SequencePlan& plan, int64_t window) {
  const SequencePartition& p = plan.partition();
  KeyRanges ranges;
  for (int64_t row = 0; row < plan.batch(); ++row) {
    for (int slot = 0; slot < p.slots(); ++slot) {
      const int part = p.part(plan.rank(), slot);
      for (int64_t i = 0; i < p.capacity(); ++i) {
        const int64_t token = p.begin(part) + i;
        const KeyRange range =
            token < p.end(part) ? causal_key_range(plan, row, token, window) : KeyRange{0, 0};
        ranges.begin.push_back(range.begin);
        ranges.end.push_back(range.end);
      }
    }
  }
  return ranges;
}

std::vector<MovedBlock> to_whole_rows(const SequencePlan& plan, int64_t rank_stride, int64_t offset,
                                      int64_t width) {
  const SequencePartition& p = plan.partition();
  std::vector<MovedBlock> blocks;
  for (int64_t row = 0; row < plan.batch(); ++row) {
    for (int part = 0; part < p.num_parts(); ++part) {
      const int64_t elems = (p.end(part) - p.begin(part)) * width;
      if (elems == 0) continue;
      const int64_t local_row = row * p.slots() + p.slot(part);
      blocks.push_back({.rows = 1,
                        .width = elems,
                        .from = p.owner(part) * rank_stride + offset + local_row * p.capacity() * width,
                        .from_stride = elems,
                        .to = (row * p.length() + p.begin(part)) * width,
                        .to_stride = elems});
    }
  }
  return blocks;
}

namespace {

/// Every rank's [keys | values] of all local rows, and how they lie in whole rows.
struct GatheredKeys {
  GatheredKeys(const SequencePlan& plan, const SequenceAttention& in)
      : k_width(in.k.dim(2) * in.k.dim(3)),
        v_width(in.v.dim(2) * in.v.dim(3)),
        tokens(plan.num_local_rows() * plan.partition().capacity()),
        k_blocks(to_whole_rows(plan, elems(), 0, k_width)),
        v_blocks(to_whole_rows(plan, elems(), tokens * k_width, v_width)) {}
  int64_t elems() const { return tokens * (k_width + v_width); }

  int64_t k_width, v_width, tokens;
  std::vector<MovedBlock> k_blocks, v_blocks;
};

struct WholeKeys {
  Tensor k, v;  ///< [B, T, HKV, d]
};

WholeKeys gather_keys(Context& ctx, Comm& comm, const SequencePlan& plan, const SequenceAttention& in,
                      const GatheredKeys& layout) {
  const DType dtype = in.k.value().dtype();
  const Tensor mine = Tensor::empty(ctx, {layout.elems()}, dtype);
  mine.slice_flat(0, in.k.shape()).copy_from(in.k.value());
  mine.slice_flat(layout.tokens * layout.k_width, in.v.shape()).copy_from(in.v.value());
  const Tensor all = Tensor::empty(ctx, {comm.size() * layout.elems()}, dtype);
  comm.all_gather("attention_forward", mine, all).wait();

  const int64_t batch = plan.batch(), length = plan.partition().length();
  const WholeKeys whole{Tensor::empty(ctx, {batch, length, in.k.dim(2), in.k.dim(3)}, dtype),
                        Tensor::empty(ctx, {batch, length, in.v.dim(2), in.v.dim(3)}, dtype)};
  copy_blocks(ctx, all, whole.k, layout.k_blocks);
  copy_blocks(ctx, all, whole.v, layout.v_blocks);
  return whole;
}

void scatter_gradients(Context& ctx, Comm& comm, const SequenceAttention::Adjoints& in,
                       const GatheredKeys& layout, const AttentionBackward& grads) {
  const DType dtype = grads.dk.dtype(), sums = accumulation_dtype(dtype);
  const Tensor all = Tensor::zeros(ctx, {comm.size() * layout.elems()}, sums);
  copy_blocks(ctx, converted(ctx, grads.dk, sums), all, reversed(layout.k_blocks));
  copy_blocks(ctx, converted(ctx, grads.dv, sums), all, reversed(layout.v_blocks));
  const Tensor mine = Tensor::empty(ctx, {layout.elems()}, sums);
  comm.reduce_scatter("attention_backward", all, mine).wait();
  in.k.add_grad(ctx, converted(ctx, mine.slice_flat(0, in.k.shape()), dtype));
  in.v.add_grad(ctx, converted(ctx, mine.slice_flat(layout.tokens * layout.k_width, in.v.shape()), dtype));
}

}  // namespace

Var all_gather_attention(Tape& tape, Comm& comm, const SequencePlan& plan, const SequenceAttention& in) {
  Context& ctx = tape.context();
  const GatheredKeys layout(plan, in);
  const WholeKeys whole = tape.once([&] { return gather_keys(ctx, comm, plan, in, layout); });
  const Shape queries{plan.batch(), in.q.dim(0) / plan.batch() * in.q.dim(1), in.q.dim(2), in.q.dim(3)};
  AttentionInputs inputs{in.q.value().reshape(queries), whole.k, whole.v, local_query_ranges(plan, in.window),
                         in.scale};
  const AttentionForward forward = softmax_attention_fwd(ctx, inputs);
  const Var out = tape.output(forward.out.reshape({in.q.dim(0), in.q.dim(1), in.q.dim(2), in.v.dim(3)}),
                              {in.q, in.k, in.v});
  tape.record(
      {in.q, in.k, in.v}, {out},
      [&ctx, &comm, in = in.adjoints(), out = out.adjoint(), layout, forward, inputs = std::move(inputs)] {
        const AttentionBackward grads =
            softmax_attention_bwd(ctx, out.grad().reshape(forward.out.shape()), inputs, forward);
        in.q.add_grad(ctx, grads.dq.reshape(in.q.shape()));
        scatter_gradients(ctx, comm, in, layout, grads);
      });
  return out;
}

}  // namespace spanwise
