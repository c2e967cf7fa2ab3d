#include "core/ops/softmax_attention.h"

#include <algorithm>
#include <memory>

#include "core/dispatch.h"

namespace spanwise {

namespace {

void check_inputs(const AttentionInputs& in) {
  const Tensor &q = in.q, &k = in.k, &v = in.v;
  SPANWISE_CHECK(q.num_dims() == 4 && k.num_dims() == 4 && v.num_dims() == 4,
                 "attention takes q, k, v of 4 dimensions, got {}, {}, {}", q.shape().str(), k.shape().str(),
                 v.shape().str());
  SPANWISE_CHECK(k.dim(0) == q.dim(0) && v.dim(0) == q.dim(0) && v.dim(1) == k.dim(1) &&
                     v.dim(2) == k.dim(2) && k.dim(3) == q.dim(3),
                 "q {}, k {} and v {} do not fit", q.shape().str(), k.shape().str(), v.shape().str());
  SPANWISE_CHECK(k.dim(2) >= 1 && q.dim(2) % k.dim(2) == 0,
                 "{} query heads are not a multiple of {} key heads", q.dim(2), k.dim(2));
  SPANWISE_CHECK(q.dtype() == k.dtype() && q.dtype() == v.dtype(), "q, k and v are {}, {} and {}",
                 name_of(q.dtype()), name_of(k.dtype()), name_of(v.dtype()));
  const size_t queries = size_t(q.dim(0) * q.dim(1));
  SPANWISE_CHECK(in.ranges.begin.size() == queries && in.ranges.end.size() == queries,
                 "{} and {} key range borders for {} queries", in.ranges.begin.size(), in.ranges.end.size(),
                 queries);
  for (size_t i = 0; i < queries; ++i) {
    const int64_t begin = in.ranges.begin[i], end = in.ranges.end[i];
    SPANWISE_CHECK(0 <= begin && begin <= end && end <= k.dim(1), "query {} reads keys [{}, {}) of {}", i,
                   begin, end, k.dim(1));
  }
}

}  // namespace

KeyRanges causal_key_ranges(const SequenceLayout& layout, int64_t window) {
  SPANWISE_CHECK(window >= 0, "window={} must be positive, or 0 for full attention", window);
  KeyRanges ranges;
  for (const Segment& segment : layout.segments()) {
    for (int64_t t = segment.begin; t < segment.end; ++t) {
      ranges.begin.push_back(window == 0 ? segment.begin : std::max(segment.begin, t + 1 - window));
      ranges.end.push_back(t + 1);
    }
  }
  return ranges;
}

AttentionForward softmax_attention_fwd(Context& ctx, const AttentionInputs& in) {
  check_inputs(in);
  const Tensor& q = in.q;
  AttentionForward forward;
  forward.out = Tensor::empty(ctx, {q.dim(0), q.dim(1), q.dim(2), in.v.dim(3)}, q.dtype());
  forward.log_sum_exp = Tensor::empty(ctx, {q.dim(0), q.dim(1), q.dim(2)}, accumulation_dtype(q.dtype()));
  SPANWISE_DISPATCH(ctx, softmax_attention_fwd, ctx, in, forward);
  return forward;
}

void merge_attention(Context& ctx, const AttentionForward& total, const AttentionForward& part,
                     const KeyRanges& ranges) {
  SPANWISE_CHECK(
      total.out.shape() == part.out.shape() && (total.out.dtype() == part.out.dtype() ||
                                                total.out.dtype() == accumulation_dtype(part.out.dtype())),
      "a part {} {} is not merged into a total {} {}", name_of(part.out.dtype()), part.out.shape().str(),
      name_of(total.out.dtype()), total.out.shape().str());
  SPANWISE_CHECK(int64_t(ranges.begin.size()) == total.out.dim(0) * total.out.dim(1),
                 "{} key ranges for outputs {}", ranges.begin.size(), total.out.shape().str());
  SPANWISE_DISPATCH(ctx, merge_attention, ctx, total, part, ranges);
}

AttentionBackward softmax_attention_bwd(Context& ctx, const Tensor& dout, const AttentionInputs& in,
                                        const AttentionForward& forward) {
  // The CPU adds up block by block, CUDA kernels write each element once.
  const auto make = ctx.device() == Device::kCPU ? Tensor::zeros : Tensor::empty;
  const AttentionBackward grads{make(ctx, in.q.shape(), in.q.dtype()), make(ctx, in.k.shape(), in.k.dtype()),
                                make(ctx, in.v.shape(), in.v.dtype())};
  SPANWISE_DISPATCH(ctx, softmax_attention_bwd, ctx, dout, in, forward, grads);
  return grads;
}

int64_t softmax_attention_bwd_bytes(Device device, const AttentionShape& shape) {
  return device == Device::kCUDA ? cuda::softmax_attention_bwd_bytes(shape) : 0;
}

Var softmax_attention(Tape& tape, const Var& q, const Var& k, const Var& v, const KeyRanges& ranges,
                      double scale) {
  Context& ctx = tape.context();
  AttentionInputs in{q.value(), k.value(), v.value(), ranges, scale};
  const AttentionForward forward = softmax_attention_fwd(ctx, in);
  Var out = tape.output(forward.out, {q, k, v});
  in.q = in.k = in.v = {};  // backward gets them again
  const auto saved = std::make_shared<AttentionInputs>(std::move(in));
  tape.record({q, k, v}, {out},
              [&ctx, saved, forward, sq = q.saved(), sk = k.saved(), sv = v.saved(), q = q.adjoint(),
               k = k.adjoint(), v = v.adjoint(), out = out.adjoint()] {
                saved->q = sq.get();
                saved->k = sk.get();
                saved->v = sv.get();
                const AttentionBackward b = softmax_attention_bwd(ctx, out.grad(), *saved, forward);
                q.add_grad(ctx, b.dq);
                k.add_grad(ctx, b.dk);
                v.add_grad(ctx, b.dv);
              });
  return out;
}

}  // namespace spanwise
