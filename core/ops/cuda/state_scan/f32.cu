// The fp32 kernel of scan.h: the recurrence as it stands there, one token after another.

#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/common/vector.cuh"
#include "core/ops/cuda/state_scan/device.h"
#include "core/ops/gpu_limits.h"

namespace spanwise::cuda {

namespace {

constexpr int kThreads = 256, kParts = kThreads / kScanSlabF32;
constexpr float kLog2E = 1.4426950408889634f;

__device__ __forceinline__ const float* row_of(const ScanOperand& x, int64_t token, int head, int width) {
  return static_cast<const float*>(x.data) + token * x.stride + head / x.group * width;
}

/// One block: a run, a head and 32 columns of v. Thread: one column, every kParts-th row of X [DK, 32].
__global__ void __launch_bounds__(kThreads) state_scan_f32_kernel(const __grid_constant__ ScanParams p) {
  extern __shared__ float X[];
  __shared__ float partial[kParts][kScanSlabF32];
  const int unit = blockIdx.x % (p.slabs * p.heads), slab = unit % p.slabs, head = unit / p.slabs;
  const ScanRun run = p.runs[blockIdx.x / (p.slabs * p.heads)];
  const int lane = threadIdx.x % kScanSlabF32, part = threadIdx.x / kScanSlabF32,
            column = slab * kScanSlabF32 + lane;
  const bool inside = column < p.DV;
  // Σ over this block's X, in a fixed order; on every thread.
  const auto block_total = [&](float sum) {
    __syncthreads();
    partial[part][lane] = sum;
    __syncthreads();
    float total = 0;
    for (int i = 0; i < kParts; ++i) total += partial[i][lane];
    return total;
  };
  float log_sum = 0;
  for (int c = 0; c < run.count; ++c) {
    const ScanChunk chunk = p.chunks[run.first + c];
    const int64_t saved_unit =
        ((int64_t(chunk.saved_slot) * p.heads + head) * p.slabs + slab) * p.DK * kScanSlabF32;
    float* saved = static_cast<float*>(p.saved_states) + saved_unit;
    if (chunk.start != ScanStart::kGoOn) {
      log_sum = 0;
      const float* from = chunk.start == ScanStart::kRow ? p.first_states : p.cut_states;
      const int64_t offset = (int64_t(chunk.start_slot) * p.heads + head) * p.DK * p.DV;
      for (int k = part; k < p.DK; k += kParts) {
        const bool zero = chunk.start == ScanStart::kZero || !inside;
        X[k * kScanSlabF32 + lane] =
            zero ? 0.f : from[offset + k * p.state_stride_k + column * p.state_stride_v];
      }
    }
    if (chunk.saved_slot >= 0 && p.saved_dots) {
      float sum = 0;
      for (int k = part; k < p.DK; k += kParts)
        sum += saved[k * kScanSlabF32 + lane] * X[k * kScanSlabF32 + lane];
      const float total = warp_sum(block_total(sum));
      if (threadIdx.x == 0)
        p.saved_dots[(int64_t(slab) * p.num_saved + chunk.saved_slot) * p.heads + head] = total;
    }
    for (int i = 0; i < chunk.length; ++i) {
      const int64_t token = chunk.begin + (p.backward_in_time ? chunk.length - 1 - i : i);
      float g = p.head_log_decay ? p.head_log_decay[head] : 0.f;
      if (p.log_decay) g = p.log_decay[token * p.log_stride + head];
      g = fmaxf(g, kSmallestLog);
      log_sum += g * kLog2E;
      const float decay = expf(g), v = inside ? row_of(p.v, token, head, p.DV)[column] * p.write_scale : 0.f;
      const float *k_row = row_of(p.k, token, head, p.DK),
                  *q_row = p.out ? row_of(p.q, token, head, p.DK) : k_row;
      float sum = 0;
      for (int k = part; k < p.DK; k += kParts) {
        float& x = X[k * kScanSlabF32 + lane];
        float now = (p.backward_in_time ? x : decay * x) + k_row[k] * v;
        sum += q_row[k] * now;
        x = p.backward_in_time ? decay * now : now;
      }
      if (!p.out) continue;
      const float out = p.read_scale * block_total(sum);
      if (part != 0) continue;
      if (inside) static_cast<float*>(p.out)[(token * p.heads + head) * p.DV + column] = out;
      if (!p.x.data) continue;
      const float dot = warp_sum(inside ? row_of(p.x, token, head, p.DV)[column] * out : 0.f);
      if (lane == 0) p.x_dots[(int64_t(slab) * p.heads + head) * p.tokens + token] = dot;
    }
    if (chunk.saved_slot >= 0 && p.saved_states && !p.saved_dots) {
      for (int k = part; k < p.DK; k += kParts) saved[k * kScanSlabF32 + lane] = X[k * kScanSlabF32 + lane];
    }
    if (chunk.store == ScanStore::kNowhere) continue;
    float* to = chunk.store == ScanStore::kRow ? p.last_states : p.cut_states;
    const int64_t offset = (int64_t(chunk.store_slot) * p.heads + head) * p.DK * p.DV;
    for (int k = part; inside && k < p.DK; k += kParts)
      to[offset + k * p.state_stride_k + column * p.state_stride_v] = X[k * kScanSlabF32 + lane];
    if (chunk.store == ScanStore::kCut && slab == 0 && threadIdx.x == 0)
      p.cut_logs[int64_t(chunk.store_slot) * p.heads + head] = log_sum;
  }
}

}  // namespace

void launch_state_scan_f32(const ScanParams& params, cudaStream_t stream) {
  constexpr int kMaxKeys = int(gpu_limits::kScalarDecayHeads.most_f32_keys),
                kRowBytes = kScanSlabF32 * int(sizeof(float));
  static const bool allowed = (allow_shared_memory(state_scan_f32_kernel, kMaxKeys * kRowBytes), true);
  static_cast<void>(allowed);
  const int64_t blocks = int64_t(params.num_runs) * params.heads * params.slabs;
  state_scan_f32_kernel<<<unsigned(blocks), kThreads, params.DK * kRowBytes, stream>>>(params);
  check_launch("state_scan_f32");
}

}  // namespace spanwise::cuda
