#include "core/optim/adamw.h"

#include <algorithm>
#include <cmath>

#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/common/vector.cuh"
#include "core/optim/cuda/tables.h"
#include "core/upload.h"

namespace spanwise::cuda {

namespace {

constexpr int kThreads = 256;

/// Elements of one block of threads.
struct Piece {
  float *param, *m, *v;
  bf16* rounded;  ///< copies; one of them or none
  float* equal;
  int64_t begin;  ///< in its span
  int32_t span;
  int32_t n;
  bool weight_decay;
  bool aligned;  ///< every pointer to 16 bytes (the BF16 copy's to 8)
};

static_assert(sizeof(Piece) == kAdamWBlockBytes);

/// Where this step's gradients of a launch's spans lie.
constexpr size_t kSpansPerLaunch = 128;
struct Gradients {
  const float* of_span[kSpansPerLaunch];
};

struct Factors {
  float beta1, beta2, one_minus_beta1, one_minus_beta2;
  float keep, rate, v_root, eps;
};

// scale (=) grad_scale · min(1, max_norm / norm); NaN where the norm is not finite.
__global__ void clip_scale_kernel(const double* squared_norm, double max_norm, double grad_scale,
                                  float* scale) {
  const double norm = sqrt(*squared_norm);
  const double clip = max_norm == 0 || norm <= max_norm ? 1.0 : max_norm / norm;
  *scale = isfinite(norm) ? float(grad_scale * clip) : NAN;
}

__device__ __forceinline__ void update(float& p, float& m, float& v, float g, float keep, const Factors& f) {
  m = f.beta1 * m + f.one_minus_beta1 * g;
  v = f.beta2 * v + f.one_minus_beta2 * (g * g);
  p = keep * p - __fdividef(f.rate * m, sqrtf(v) * f.v_root + f.eps);
}

__device__ __forceinline__ void update_vector(const Piece& piece, const float* grad, int at, float scale,
                                              float keep, const Factors& f) {
  const float4 g4 = __ldcs(reinterpret_cast<const float4*>(grad + at));
  float4 m4 = __ldcs(reinterpret_cast<const float4*>(piece.m + at));
  float4 v4 = __ldcs(reinterpret_cast<const float4*>(piece.v + at));
  float4 p4 = __ldcs(reinterpret_cast<const float4*>(piece.param + at));
  update(p4.x, m4.x, v4.x, scale * g4.x, keep, f);
  update(p4.y, m4.y, v4.y, scale * g4.y, keep, f);
  update(p4.z, m4.z, v4.z, scale * g4.z, keep, f);
  update(p4.w, m4.w, v4.w, scale * g4.w, keep, f);
  __stcs(reinterpret_cast<float4*>(piece.m + at), m4);
  __stcs(reinterpret_cast<float4*>(piece.v + at), v4);
  __stcs(reinterpret_cast<float4*>(piece.param + at), p4);
  if (piece.rounded) {
    const __nv_bfloat162 low = __floats2bfloat162_rn(p4.x, p4.y), high = __floats2bfloat162_rn(p4.z, p4.w);
    const uint2 raw{reinterpret_cast<const uint32_t&>(low), reinterpret_cast<const uint32_t&>(high)};
    __stcs(reinterpret_cast<uint2*>(piece.rounded + at), raw);
  }
  if (piece.equal) *reinterpret_cast<float4*>(piece.equal + at) = p4;
}

__device__ __forceinline__ void update_one(const Piece& piece, const float* grad, int at, float scale,
                                           float keep, const Factors& f) {
  float p = piece.param[at], m = piece.m[at], v = piece.v[at];
  update(p, m, v, scale * grad[at], keep, f);
  piece.param[at] = p;
  piece.m[at] = m;
  piece.v[at] = v;
  if (piece.rounded) piece.rounded[at] = from_float<bf16>(p);
  if (piece.equal) piece.equal[at] = p;
}

__global__ void __launch_bounds__(kThreads)
    adamw_kernel(const Piece* __restrict__ pieces, const __grid_constant__ Gradients grads, Factors f,
                 const float* __restrict__ clipped, float grad_scale) {
  const Piece piece = pieces[blockIdx.x];
  const float* grad = grads.of_span[piece.span % kSpansPerLaunch] + piece.begin;
  const float scale = clipped ? *clipped : grad_scale;
  if (isnan(scale)) return;
  const float keep = piece.weight_decay ? f.keep : 1.0f;
  const bool aligned = piece.aligned && reinterpret_cast<uintptr_t>(grad) % 16 == 0;
  const int vectors = aligned ? piece.n / 4 : 0;
#pragma unroll 2
  for (int v = threadIdx.x; v < vectors; v += kThreads) update_vector(piece, grad, 4 * v, scale, keep, f);
  for (int i = 4 * vectors + threadIdx.x; i < piece.n; i += kThreads)
    update_one(piece, grad, i, scale, keep, f);
}

bool aligned_to(const void* p, uintptr_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

}  // namespace

Tensor adamw_table(Context& ctx, const std::vector<AdamWTensors>& spans) {
  std::vector<Piece> pieces;
  for (size_t s = 0; s < spans.size(); ++s) {
    const AdamWTensors& span = spans[s];
    const bool rounds = span.copy.defined() && span.copy.dtype() == DType::kBF16;
    for (int64_t begin = 0; begin < span.param.numel(); begin += kAdamWBlockElems) {
      Piece piece{.param = pointer<float>(span.param) + begin,
                  .m = pointer<float>(span.m) + begin,
                  .v = pointer<float>(span.v) + begin,
                  .rounded = rounds ? pointer<bf16>(span.copy) + begin : nullptr,
                  .equal = span.copy.defined() && !rounds ? pointer<float>(span.copy) + begin : nullptr,
                  .begin = begin,
                  .span = int32_t(s),
                  .n = int32_t(std::min(kAdamWBlockElems, span.param.numel() - begin)),
                  .weight_decay = span.weight_decay};
      piece.aligned = aligned_to(piece.param, 16) && aligned_to(piece.m, 16) && aligned_to(piece.v, 16) &&
                      aligned_to(piece.rounded, 8) && aligned_to(piece.equal, 16);
      pieces.push_back(piece);
    }
  }
  return upload(ctx, pieces);
}

void adamw_step(Context& ctx, const AdamW& adamw, const std::vector<Tensor>& grads, const AdamWHyper& hyper,
                const GradientClip& clip) {
  const AdamWFactors d(hyper);
  const Factors f{float(d.beta1), float(d.beta2), float(d.one_minus_beta1), float(d.one_minus_beta2),
                  float(d.keep),  float(d.rate),  float(d.v_root),          float(d.eps)};
  Tensor scale;
  if (clip.squared_norm.defined()) {
    scale = Tensor::empty(ctx, {1}, DType::kF32);
    clip_scale_kernel<<<1, 1, 0, stream_of(ctx)>>>(clip.squared_norm.data<double>(), clip.max_norm,
                                                   hyper.grad_scale, pointer<float>(scale));
  }
  const auto* pieces = static_cast<const Piece*>(adamw.table().raw());
  for (size_t first = 0; first < grads.size(); first += kSpansPerLaunch) {
    Gradients of_launch{};
    int64_t blocks = 0;
    for (size_t s = first; s < std::min(first + kSpansPerLaunch, grads.size()); ++s) {
      of_launch.of_span[s - first] = pointer<float>(grads[s]);
      blocks += ceil_div(grads[s].numel(), kAdamWBlockElems);
    }
    if (blocks == 0) continue;
    adamw_kernel<<<unsigned(blocks), kThreads, 0, stream_of(ctx)>>>(
        pieces, of_launch, f, pointer<float>(scale), float(hyper.grad_scale));
    check_launch("adamw");
    pieces += blocks;
  }
}

}  // namespace spanwise::cuda
