#include "core/ops/cuda/common/pack.cuh"
#include "core/ops/cuda/common/rows.cuh"
#include "core/ops/gpu_limits.h"
#include "core/ops/rope.h"

namespace spanwise::cuda {

namespace {

constexpr int kThreads = 256;
// Angles of a block's tokens, two floats each: 16 KB.
constexpr int kMaxAngles = int(gpu_limits::kMostRopeAngles);

template <class T>
struct RopeOperands {
  RowView<const T> x;  // rows of one head
  T* y;
  const double* frequencies;
  const int32_t* positions;
  int64_t tokens;
  int32_t heads, width, half;
  int32_t tokens_per_block;
  float sign;
};

// A block takes the angles of its tokens once, for all heads; then its threads turn pairs of packs.
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) rope_kernel(const RopeOperands<T> a) {
  using Values = Pack<T, kWidth>;
  __shared__ __align__(16) float cosines[kMaxAngles], sines[kMaxAngles];
  const int64_t first = int64_t(blockIdx.x) * a.tokens_per_block;
  const int tokens = int(min(int64_t(a.tokens_per_block), a.tokens - first));
  for (int i = threadIdx.x; i < tokens * a.half; i += kThreads) {
    // In half turns: the double keeps what a float of a large angle would lose.
    const double turns = double(a.positions[first + i / a.half]) * a.frequencies[i % a.half];
    float sine, cosine;
    sincospif(float(turns - 2.0 * rint(0.5 * turns)), &sine, &cosine);
    cosines[i] = cosine;
    sines[i] = sine * a.sign;
  }
  __syncthreads();

  const int pairs = a.half / kWidth, copies = (a.width - 2 * a.half) / kWidth, per_row = pairs + copies;
  const int rows_at_once = max(kThreads / per_row, 1);
  for (int unit = threadIdx.x % per_row; unit < per_row; unit += kThreads) {
    if (int(threadIdx.x) / per_row >= rows_at_once) break;
    for (int r = threadIdx.x / per_row; r < tokens * a.heads; r += rows_at_once) {
      const int64_t row = first * a.heads + r;
      const T* from = a.x.at(row);
      T* to = a.y + row * a.width;
      if (unit >= pairs) {
        const int column = 2 * a.half + (unit - pairs) * kWidth;
        Values::load(from + column).store(to + column);
        continue;
      }
      const int column = unit * kWidth;
      const Values low = Values::load(from + column), high = Values::load(from + a.half + column);
      const float* c = cosines + r / a.heads * a.half + column;
      const float* s = sines + r / a.heads * a.half + column;
      float turned_low[kWidth], turned_high[kWidth];
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        turned_low[i] = low.get(i) * c[i] - high.get(i) * s[i];
        turned_high[i] = high.get(i) * c[i] + low.get(i) * s[i];
      }
      Values::from(turned_low).store(to + column);
      Values::from(turned_high).store(to + a.half + column);
    }
  }
}

}  // namespace

void rope_apply(const Context& ctx, const Tensor& x, const RopeTable& table, RopeDirection direction,
                const Tensor& y) {
  if (x.numel() == 0) return;
  const int64_t width = x.dim(3), half = table.rotary_dim / 2;
  SPANWISE_CHECK(half <= kMaxAngles, "rope: rotary_dim={} is not supported on CUDA (up to {} are)",
                 table.rotary_dim, 2 * kMaxAngles);
  dispatch_cuda(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    constexpr int kWide = kVector<T>;
    const RopeOperands<T> a{rows_of<const T>(x, width),
                            pointer<T>(y),
                            pointer<double>(table.frequencies),
                            pointer<int32_t>(table.device_positions),
                            x.dim(0) * x.dim(1),
                            int32_t(x.dim(2)),
                            int32_t(width),
                            int32_t(half),
                            int32_t(std::min<int64_t>(kMaxAngles / half, 8)),
                            direction == RopeDirection::kForward ? 1.0f : -1.0f};
    const unsigned blocks = unsigned(ceil_div(a.tokens, a.tokens_per_block));
    if (rows_are_aligned({&x, &y}, width, kWide) && half % kWide == 0) {
      rope_kernel<T, kWide><<<blocks, kThreads, 0, stream_of(ctx)>>>(a);
    } else {
      rope_kernel<T, 1><<<blocks, kThreads, 0, stream_of(ctx)>>>(a);
    }
  });
  check_launch("rope");
}

}  // namespace spanwise::cuda
