// merge_attention: one warp a query and head.

#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/common/vector.cuh"
#include "core/ops/softmax_attention.h"
#include "core/upload.h"

namespace spanwise::cuda {

namespace {

constexpr int kWarps = 8;

template <class T, class Part>
__global__ void __launch_bounds__(32 * kWarps)
    merge_kernel(T* out, float* lse, const Part* added, const float* added_lse, const uint8_t* reads,
                 int64_t rows, int heads, int width) {
  const int64_t at = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;  // query · heads + head
  if (at >= rows || !reads[at / heads]) return;
  const float a = lse[at], b = added_lse[at], largest = fmaxf(a, b);
  const float merged = largest + logf(expf(a - largest) + expf(b - largest));
  const float mine = expf(a - merged), other = expf(b - merged);
  __syncwarp();  // every lane has read lse
  for (int c = threadIdx.x % 32; c < width; c += 32) {
    const int64_t i = at * width + c;
    out[i] = from_float<T>(fmaf(mine, to_float(out[i]), other * to_float(added[i])));
  }
  if (threadIdx.x % 32 == 0) lse[at] = merged;
}

}  // namespace

void merge_attention(Context& ctx, const AttentionForward& total, const AttentionForward& part,
                     const KeyRanges& ranges) {
  const int64_t heads = total.out.dim(2), rows = total.out.dim(0) * total.out.dim(1) * heads;
  if (rows == 0) return;
  std::vector<uint8_t> reads(ranges.begin.size());
  for (size_t i = 0; i < reads.size(); ++i) reads[i] = ranges.begin[i] < ranges.end[i];
  const Tensor device_reads = upload(ctx, reads);
  dispatch_cuda(total.out.dtype(), [&](auto zero) {
    dispatch_cuda(part.out.dtype(), [&](auto part_zero) {
      using T = decltype(zero);
      using Part = decltype(part_zero);
      if constexpr (sizeof(Part) <= sizeof(T)) {
        merge_kernel<T, Part><<<ceil_div(rows, kWarps), 32 * kWarps, 0, stream_of(ctx)>>>(
            pointer<T>(total.out), pointer<float>(total.log_sum_exp), pointer<Part>(part.out),
            pointer<float>(part.log_sum_exp), static_cast<const uint8_t*>(device_reads.raw()), rows,
            int(heads), int(total.out.dim(3)));
      }
    });
  });
  check_launch("merge_attention");
}

}  // namespace spanwise::cuda
