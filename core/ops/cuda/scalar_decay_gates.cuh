#pragma once
// What scalar_decay.cu does around its scans: sums over value heads, gradients and sums of log decays.

#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/common/vector.cuh"
#include "core/ops/cuda/state_scan/scan.h"

namespace spanwise::cuda::scan {

constexpr int kGateThreads = 256, kGateWarps = kGateThreads / 32;
constexpr int kGateParts = 16;  ///< blocks that share a group's sums over value heads

/// out [tokens, H, K] = Σ over the group's value heads of in [tokens, HV, K], in order, for the groups'
/// tokens. Grid: (groups, H, kGateParts).
template <class T>
__global__ void __launch_bounds__(kGateThreads)
    sum_value_heads(const T* in, T* out, const ScanCuts::Group* groups, int key_heads, int heads_per_key,
                    int width) {
  const ScanCuts::Group group = groups[blockIdx.x];
  const int vectors = width / kVector<T>;
  for (int i = blockIdx.z * kGateThreads + threadIdx.x; i < group.length * vectors;
       i += kGateThreads * kGateParts) {
    const int64_t row = (int64_t(group.begin) + i / vectors) * key_heads + blockIdx.y;
    const int64_t column = i % vectors * kVector<T>;
    float sum[kVector<T>] = {};
    for (int j = 0; j < heads_per_key; ++j) {
      float x[kVector<T>];
      load_vector(in + (row * heads_per_key + j) * width + column, x);
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) sum[e] += x[e];
    }
    store_vector(out + row * width + column, sum);
  }
}

/// The same where rows are no multiples of 16 bytes.
template <class T>
__global__ void __launch_bounds__(kGateThreads)
    sum_value_heads_by_element(const T* in, T* out, const ScanCuts::Group* groups, int key_heads,
                               int heads_per_key, int width) {
  const ScanCuts::Group group = groups[blockIdx.x];
  for (int i = blockIdx.z * kGateThreads + threadIdx.x; i < group.length * width;
       i += kGateThreads * kGateParts) {
    const int64_t row = (int64_t(group.begin) + i / width) * key_heads + blockIdx.y;
    float sum = 0;
    for (int j = 0; j < heads_per_key; ++j)
      sum += to_float(in[(row * heads_per_key + j) * width + i % width]);
    out[row * width + i % width] = from_float<T>(sum);
  }
}

/// q·dq of every token, kept in dlog_decay [tokens, HV] until dk is known: Σ over slabs of dots
/// [slabs, HV, tokens]. One warp a (group, head); grid: (groups, ⌈HV / kGateWarps⌉).
__global__ void __launch_bounds__(kGateThreads)
    store_query_dots(const float* dots, float* dlog_decay, const ScanCuts::Group* groups, int heads,
                     int slabs, int64_t tokens) {
  const ScanCuts::Group group = groups[blockIdx.x];
  const int head = blockIdx.y * kGateWarps + threadIdx.x / 32;
  if (head >= heads) return;
  for (int i = threadIdx.x % 32; i < group.length; i += 32) {
    const int64_t token = int64_t(group.begin) + i;
    float sum = 0;
    for (int s = 0; s < slabs; ++s) sum += dots[(int64_t(s) * heads + head) * tokens + token];
    dlog_decay[token * heads + head] = sum;
  }
}

/// dlog_decay = reverse cumulative sum over each group of (q·dq, which it holds, − k·dk), from the group's
/// ⟨S, dS⟩ at its end. key_dots [key_slabs, HV, tokens], state_dots [state_slabs, slots, HV].
__global__ void __launch_bounds__(kGateThreads)
    accumulate_dots(const float* key_dots, int key_slabs, const float* state_dots, int state_slabs,
                    int num_slots, float* dlog_decay, const ScanCuts::Group* groups, int heads,
                    int64_t tokens) {
  const ScanCuts::Group group = groups[blockIdx.x];
  const int head = blockIdx.y * kGateWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (head >= heads) return;
  float after = 0;  // the sum of all later tokens
  if (group.slot >= 0) {
    for (int s = 0; s < state_slabs; ++s)
      after += state_dots[(int64_t(s) * num_slots + group.slot) * heads + head];
  }
  for (int end = group.length; end > 0; end -= 32) {
    const int i = end - 1 - lane;  // lane 0 is the last token
    const int64_t token = int64_t(group.begin) + i;
    float sum = 0;
    if (i >= 0) {
      sum = dlog_decay[token * heads + head];
      for (int s = 0; s < key_slabs; ++s) sum -= key_dots[(int64_t(s) * heads + head) * tokens + token];
    }
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const float later = __shfl_up_sync(0xffffffffu, sum, offset);
      if (lane >= offset) sum += later;
    }
    sum += after;
    after = __shfl_sync(0xffffffffu, sum, 31);
    // A first token whose decay meets no state: zero to the last bit, not a sum of roundings.
    if (i >= 0) dlog_decay[token * heads + head] = i == 0 && group.starts_empty ? 0.f : sum;
  }
}

/// sums [rows, HV] = Σ g over each row of `length` tokens. Grid: (rows, HV).
__global__ void __launch_bounds__(kGateThreads)
    sum_log_decays(const float* log_decay, int64_t log_stride, const float* head_log_decay, int64_t length,
                   float* sums) {
  __shared__ double partial[kGateThreads];
  // e^-1000 is zero, so the cut changes no factor, and sums of infinities stay finite.
  constexpr double kSmallest = -1000;
  const int head = blockIdx.y;
  double sum = 0;
  for (int64_t t = threadIdx.x; log_decay && t < length; t += kGateThreads)
    sum += fmax(double(log_decay[(blockIdx.x * length + t) * log_stride + head]), kSmallest);
  partial[threadIdx.x] = sum;
  __syncthreads();
  for (int n = kGateThreads / 2; n > 0; n /= 2) {
    if (threadIdx.x < n) partial[threadIdx.x] += partial[threadIdx.x + n];
    __syncthreads();
  }
  if (threadIdx.x != 0) return;
  const double constant = log_decay ? 0 : double(length) * fmax(double(head_log_decay[head]), kSmallest);
  sums[int64_t(blockIdx.x) * gridDim.y + head] = float(partial[0] + constant);
}

}  // namespace spanwise::cuda::scan
