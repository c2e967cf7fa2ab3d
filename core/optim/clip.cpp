#include "core/optim/clip.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/dispatch.h"
#include "core/ops/cpu/parallel_for.h"
#include "core/ops/cuda/common/ceil_div.h"
#include "core/optim/cuda/tables.h"

namespace spanwise {

namespace work {
Work squared_norm(const Context&, const std::vector<Tensor>& parts, const Tensor&) {
  Work work;
  for (const Tensor& part : parts) work.bytes += bytes_of(part);
  return work;
}
}  // namespace work

namespace dry {
void squared_norm(Context& ctx, const std::vector<Tensor>& parts, const Tensor&) {
  if (ctx.device() == Device::kCPU) return;
  int64_t blocks = 0;
  for (const Tensor& part : parts) blocks += cuda::ceil_div(part.numel(), cuda::kNormBlockElems);
  const Tensor table = Tensor::empty(ctx, {blocks * cuda::kNormBlockBytes}, DType::kU8);
  Tensor::empty(ctx, {blocks}, DType::kF64);
}
}  // namespace dry

template <class T>
double squared_norm(Context& ctx, std::span<const T> values) {
  const int64_t n = int64_t(values.size()), num_blocks = std::clamp<int64_t>(n / 4096, 1, 256);
  std::vector<double> sums(static_cast<size_t>(num_blocks));
  cpu::parallel_for(ctx, num_blocks, [&](int64_t b) {
    const T* x = values.data();
    const int64_t begin = n * b / num_blocks, end = n * (b + 1) / num_blocks;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) sum += double(x[i]) * double(x[i]);
    sums[b] = sum;
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

template double squared_norm(Context&, std::span<const float>);
template double squared_norm(Context&, std::span<const double>);

Tensor squared_norm(Context& ctx, const std::vector<Tensor>& parts) {
  for (const Tensor& part : parts) {
    SPANWISE_CHECK(part.contiguous() && part.dtype() == parts[0].dtype(),
                   "a norm's parts are contiguous and of one dtype, got {} {} beside {}",
                   name_of(part.dtype()), part.shape().str(), name_of(parts[0].dtype()));
  }
  const Tensor sum = Tensor::empty(ctx, {1}, DType::kF64);
  SPANWISE_DISPATCH(ctx, squared_norm, ctx, parts, sum);
  return sum;
}

namespace cpu {

void squared_norm(Context& ctx, const std::vector<Tensor>& parts, const Tensor& sum) {
  double total = 0;
  for (const Tensor& part : parts) {
    dispatch_float(part.dtype(), [&](auto zero) {
      using T = decltype(zero);
      total += spanwise::squared_norm<T>(ctx, {part.data<T>(), size_t(part.numel())});
    });
  }
  *sum.data<double>() = total;
}

}  // namespace cpu

double clip_scale(double norm, double max_norm) {
  SPANWISE_CHECK(std::isfinite(norm) && norm >= 0, "a gradient norm of {} cannot be clipped", norm);
  SPANWISE_CHECK(max_norm >= 0, "max_norm={} must be positive, or 0 for no clipping", max_norm);
  return max_norm == 0 || norm <= max_norm ? 1.0 : max_norm / norm;
}

}  // namespace spanwise
