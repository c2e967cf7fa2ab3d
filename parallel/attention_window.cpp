// Sliding windows need the window − 1 tokens before a local row, not the whole rows: its halo goes in front
// of the local keys and values.

#include <algorithm>

#include "parallel/attention_exchange.h"
#include "parallel/halo.h"

namespace spanwise {

namespace {

/// Keys and values side by side, a token a row, and the halo's `width` tokens before each local row.
struct WindowKeys {
  WindowKeys(const SequencePlan& plan, const SequenceAttention& in)
      : rows(in.k.dim(0)),
        capacity(in.k.dim(1)),
        width(window_halo_width(in.window, plan.partition().length())),
        k_width(in.k.dim(2) * in.k.dim(3)),
        v_width(in.v.dim(2) * in.v.dim(3)) {}

  /// From [R, tokens, HKV·d + HKV·dv] to keys, or to values, of [R, width + capacity, HKV·d].
  std::vector<MovedBlock> unpack(int64_t tokens, int64_t first, bool values) const {
    const int64_t both = k_width + v_width, own = values ? v_width : k_width;
    std::vector<MovedBlock> blocks;
    for (int64_t row = 0; row < rows; ++row) {
      blocks.push_back({.rows = tokens,
                        .width = own,
                        .from = row * tokens * both + (values ? k_width : 0),
                        .from_stride = both,
                        .to = (row * (width + capacity) + first) * own,
                        .to_stride = own});
    }
    return blocks;
  }

  int64_t rows, capacity, width, k_width, v_width;
};

Tensor pack(Context& ctx, const WindowKeys& w, const SequenceAttention& in) {
  const Tensor packed = Tensor::empty(ctx, {w.rows, w.capacity, w.k_width + w.v_width}, in.k.value().dtype());
  const int64_t tokens = w.rows * w.capacity, both = w.k_width + w.v_width;
  copy_blocks(ctx, in.k.value().to_contiguous(ctx), packed, {{tokens, w.k_width, 0, w.k_width, 0, both}});
  copy_blocks(ctx, in.v.value().to_contiguous(ctx), packed,
              {{tokens, w.v_width, 0, w.v_width, w.k_width, both}});
  return packed;
}

/// The ranges of local queries [R, capacity] in keys that begin with the halo.
KeyRanges window_ranges(const SequencePlan& plan, const WindowKeys& w, int64_t window) {
  KeyRanges ranges = local_query_ranges(plan, window);
  for (int64_t i = 0; i < w.rows * w.capacity; ++i) {
    const int64_t keys = ranges.end[i] - ranges.begin[i];
    if (keys == 0) continue;
    ranges.end[i] = w.width + i % w.capacity + 1;
    ranges.begin[i] = ranges.end[i] - keys;
  }
  return ranges;
}

}  // namespace

Var window_attention(Tape& tape, Comm& comm, const SequencePlan& plan, const SequenceAttention& in) {
  Context& ctx = tape.context();
  SPANWISE_CHECK(in.window > 0, "window={}", in.window);
  const WindowKeys w(plan, in);
  const Halo halo(plan, w.width);
  const DType dtype = in.k.value().dtype();
  const Tensor local = pack(ctx, w, in);
  const Tensor before = tape.once([&] { return halo.fetch(ctx, comm, "attention_forward", local); });

  const int64_t length = w.width + w.capacity;
  AttentionInputs inputs{in.q.value(), Tensor::empty(ctx, {w.rows, length, in.k.dim(2), in.k.dim(3)}, dtype),
                         Tensor::empty(ctx, {w.rows, length, in.v.dim(2), in.v.dim(3)}, dtype),
                         window_ranges(plan, w, in.window), in.scale};
  for (const bool values : {false, true}) {
    const Tensor& target = values ? inputs.v : inputs.k;
    copy_blocks(ctx, before, target, w.unpack(w.width, 0, values));
    copy_blocks(ctx, local, target, w.unpack(w.capacity, w.width, values));
  }
  const AttentionForward forward = softmax_attention_fwd(ctx, inputs);
  const Var out = tape.output(forward.out, {in.q, in.k, in.v});
  tape.record(
      {in.q, in.k, in.v}, {out},
      [&ctx, &comm, in = in.adjoints(), out = out.adjoint(), w, halo, forward, inputs = std::move(inputs)] {
        const AttentionBackward grads = softmax_attention_bwd(ctx, out.grad(), inputs, forward);
        in.q.add_grad(ctx, grads.dq);
        const DType dtype = grads.dk.dtype();
        const int64_t both = w.k_width + w.v_width, tokens = w.rows * w.capacity;
        const Tensor dbefore = Tensor::empty(ctx, {w.rows, w.width, both}, dtype);
        const Tensor dlocal = Tensor::empty(ctx, {w.rows, w.capacity, both}, dtype);
        for (const bool values : {false, true}) {
          const Tensor& source = values ? grads.dv : grads.dk;
          copy_blocks(ctx, source, dbefore, reversed(w.unpack(w.width, 0, values)));
          copy_blocks(ctx, source, dlocal, reversed(w.unpack(w.capacity, w.width, values)));
        }
        halo.give_back(ctx, comm, "attention_backward", dbefore, dlocal);
        const Tensor dk = Tensor::empty(ctx, in.k.shape(), dtype);
        const Tensor dv = Tensor::empty(ctx, in.v.shape(), dtype);
        copy_blocks(ctx, dlocal, dk, {{tokens, w.k_width, 0, both, 0, w.k_width}});
        copy_blocks(ctx, dlocal, dv, {{tokens, w.v_width, w.k_width, both, 0, w.v_width}});
        in.k.add_grad(ctx, dk);
        in.v.add_grad(ctx, dv);
      });
  return out;
}

}  // namespace spanwise
