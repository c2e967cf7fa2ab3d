#include "core/ops/softmax_attention.h"

#include <algorithm>
#include <memory>

#include "core/dispatch.h"
#include "core/ops/convert.h"
#include "core/ops/cuda/softmax_attention/sizes.h"

namespace spanwise {

namespace work {

/// Pairs of a query and a key that it reads, in every query head.
double pairs(const AttentionInputs& in) {
  int64_t pairs = 0;
  for (size_t i = 0; i < in.ranges.begin.size(); ++i) pairs += in.ranges.end[i] - in.ranges.begin[i];
  return double(pairs) * double(in.q.dim(2));
}
Work softmax_attention_fwd(const Context&, const AttentionInputs& in, const AttentionForward& f) {
  return {.flops = 2 * pairs(in) * double(in.q.dim(3) + in.v.dim(3)),
          .bytes = bytes_of(in.q, in.k, in.v, f.out, f.log_sum_exp)};
}
Work merge_attention(const Context&, const AttentionForward& total, const AttentionForward& part,
                     const KeyRanges&) {
  return {.bytes = bytes_of(part.out, part.log_sum_exp) + 2 * bytes_of(total.out, total.log_sum_exp)};
}
Work softmax_attention_bwd(const Context&, const Tensor& dout, const AttentionInputs& in,
                           const AttentionForward& f, const AttentionBackward& g) {
  const double both = pairs(in), keys = double(in.q.dim(3)), values = double(in.v.dim(3));
  return {.flops = 4 * both * (keys + values),
          .recomputed_flops = 2 * both * keys,  // the scores
          .bytes = bytes_of(dout, in.q, in.k, in.v, f.out, f.log_sum_exp, g.dq, g.dk, g.dv)};
}

}  // namespace work

namespace dry {

void softmax_attention_fwd(Context& ctx, const AttentionInputs& in, const AttentionForward&) {
  if (ctx.device() == Device::kCUDA) return cuda::dry_attention_fwd(ctx, in);
  cpu::attention_scratch(ctx, in.q.dtype(), 1);
}

void merge_attention(Context& ctx, const AttentionForward& total, const AttentionForward&,
                     const KeyRanges& ranges) {
  if (ctx.device() == Device::kCUDA && total.log_sum_exp.numel() > 0)
    Tensor::empty(ctx, {int64_t(ranges.begin.size())}, DType::kU8);
}

void softmax_attention_bwd(Context& ctx, const Tensor& dout, const AttentionInputs& in,
                           const AttentionForward& f, const AttentionBackward&) {
  if (ctx.device() == Device::kCUDA) return cuda::dry_attention_bwd(ctx, dout, in, f.out);
  cpu::attention_scratch(ctx, in.q.dtype(), 2);
}

}  // namespace dry

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

// The CPU computes BF16 in F32.
bool in_f32(const Context& ctx, const AttentionInputs& in) {
  return ctx.device() == Device::kCPU && in.q.dtype() == DType::kBF16;
}
Tensor as_f32(Context& ctx, const Tensor& t) {
  return converted(ctx, t.to_contiguous(ctx), DType::kF32);
}
AttentionInputs as_f32(Context& ctx, const AttentionInputs& in) {
  return {as_f32(ctx, in.q), as_f32(ctx, in.k), as_f32(ctx, in.v), in.ranges, in.scale};
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
  if (in_f32(ctx, in)) {
    AttentionForward forward = softmax_attention_fwd(ctx, as_f32(ctx, in));
    forward.out = converted(ctx, forward.out, DType::kBF16);
    return forward;
  }
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
  if (in_f32(ctx, in)) {
    const AttentionBackward wide = softmax_attention_bwd(ctx, as_f32(ctx, dout), as_f32(ctx, in),
                                                         {as_f32(ctx, forward.out), forward.log_sum_exp});
    return {converted(ctx, wide.dq, DType::kBF16), converted(ctx, wide.dk, DType::kBF16),
            converted(ctx, wide.dv, DType::kBF16)};
  }
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
