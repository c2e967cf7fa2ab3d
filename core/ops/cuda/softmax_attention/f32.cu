// Softmax attention in plain fp32. One warp owns a query (forward, dq) or a key (dk, dv) and takes the other
// side 32 at a time: each lane computes one score, then the lanes share the columns of the weighted sum.

#include "core/ops/cuda/common/vector.cuh"
#include "core/ops/cuda/softmax_attention/args.h"
#include "core/ops/gpu_limits.h"

namespace spanwise::cuda {

namespace {

using Args = AttentionArgs<float>;
constexpr int kWarps = 4, kMaxWidth = int(gpu_limits::kAttentionHeads.most_f32_keys),
              kLaneColumns = kMaxWidth / 32;

__device__ __forceinline__ float dot(const float* a, const float* b, int n) {
  float sum = 0;
  for (int c = 0; c < n; ++c) sum = fmaf(a[c], b[c], sum);
  return sum;
}

/// sum += Σ_i weight of lane i · row(i), this lane's columns lane, lane + 32, ...
template <class Row>
__device__ __forceinline__ void add_rows(float (&sum)[kLaneColumns], float weight, int rows, int width,
                                         const Row& row) {
  const int lane = threadIdx.x % 32;
  for (int i = 0; i < rows; ++i) {
    const float w = __shfl_sync(0xffffffffu, weight, i);
    const float* x = row(i);
#pragma unroll
    for (int c = 0; c < kLaneColumns; ++c) {
      if (lane + 32 * c < width) sum[c] = fmaf(w, x[lane + 32 * c], sum[c]);
    }
  }
}

__device__ __forceinline__ void store_row(float* to, int width, const float (&x)[kLaneColumns],
                                          float factor) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int c = 0; c < kLaneColumns; ++c) {
    if (lane + 32 * c < width) to[lane + 32 * c] = x[c] * factor;
  }
}

__global__ void __launch_bounds__(32 * kWarps) fwd_kernel(Args a) {
  const int lane = threadIdx.x % 32, query = blockIdx.x * kWarps + threadIdx.x / 32;
  const int head = blockIdx.y, batch = blockIdx.z, kv_head = head / (a.heads / a.kv_heads);
  if (query >= a.num_queries) return;
  const int64_t at = int64_t(batch) * a.num_queries + query;
  const int2 range = a.ranges[at];
  const float* q = a.q.row(batch, a.num_queries, query, head, a.key_width);
  float largest = -INFINITY, sum = 0, out[kLaneColumns] = {};
  for (int key0 = range.x; key0 < range.y; key0 += 32) {
    const int rows = min(32, range.y - key0);
    float score = -INFINITY;
    if (lane < rows)
      score = dot(q, a.k.row(batch, a.num_keys, key0 + lane, kv_head, a.key_width), a.key_width) * a.scale;
    const float top = fmaxf(largest, warp_max(score)), shrink = expf(largest - top);
    const float p = expf(score - top);
    largest = top;
    sum = fmaf(sum, shrink, warp_sum(p));
#pragma unroll
    for (int c = 0; c < kLaneColumns; ++c) out[c] *= shrink;
    add_rows(out, p, rows, a.value_width,
             [&](int i) { return a.v.row(batch, a.num_keys, key0 + i, kv_head, a.value_width); });
  }
  const bool empty = range.x >= range.y;
  if (lane == 0) a.lse[at * a.heads + head] = empty ? 0.0f : largest + logf(sum);
  store_row(a.out + (at * a.heads + head) * a.value_width, a.value_width, out, empty ? 0.0f : 1.0f / sum);
}

/// P of a query and a key, and dS without its factor `scale`.
struct Pair {
  float p = 0, ds = 0;
};
__device__ __forceinline__ Pair backward_pair(const Args& a, int batch, int query, int head, int key) {
  const int kv_head = head / (a.heads / a.kv_heads);
  const int64_t statistics = (int64_t(batch) * a.heads + head) * a.padded + query;
  const float score = dot(a.q.row(batch, a.num_queries, query, head, a.key_width),
                          a.k.row(batch, a.num_keys, key, kv_head, a.key_width), a.key_width);
  const float dp = dot(a.dout.row(batch, a.num_queries, query, head, a.value_width),
                       a.v.row(batch, a.num_keys, key, kv_head, a.value_width), a.value_width);
  const float p = exp2f(fmaf(score, a.scale_log2, -a.padded_lse[statistics]));
  return {p, p * (dp - a.delta[statistics])};
}

__global__ void __launch_bounds__(32 * kWarps) dq_kernel(Args a) {
  const int lane = threadIdx.x % 32, query = blockIdx.x * kWarps + threadIdx.x / 32;
  const int head = blockIdx.y, batch = blockIdx.z, kv_head = head / (a.heads / a.kv_heads);
  if (query >= a.num_queries) return;
  const int64_t at = int64_t(batch) * a.num_queries + query;
  const int2 range = a.ranges[at];
  float dq[kLaneColumns] = {};
  for (int key0 = range.x; key0 < range.y; key0 += 32) {
    const int rows = min(32, range.y - key0);
    Pair pair;
    if (lane < rows) pair = backward_pair(a, batch, query, head, key0 + lane);
    add_rows(dq, pair.ds, rows, a.key_width,
             [&](int i) { return a.k.row(batch, a.num_keys, key0 + i, kv_head, a.key_width); });
  }
  store_row(a.dq + (at * a.heads + head) * a.key_width, a.key_width, dq, a.scale);
}

__global__ void __launch_bounds__(32 * kWarps) dkdv_kernel(Args a) {
  const int lane = threadIdx.x % 32, key = blockIdx.x * kWarps + threadIdx.x / 32;
  const int kv_head = blockIdx.y, batch = blockIdx.z, group = a.heads / a.kv_heads;
  if (key >= a.num_keys) return;
  float dk[kLaneColumns] = {}, dv[kLaneColumns] = {};
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    for (int query0 = 0; query0 < a.num_queries; query0 += 32) {
      const BlockBounds bounds = a.bounds[int64_t(batch) * a.num_bounds + query0 / kBoundsQueries];
      if (!bounds.reads(key, key + 1)) continue;
      const int rows = min(32, a.num_queries - query0);
      Pair pair;
      if (lane < rows) {
        const int2 range = a.ranges[int64_t(batch) * a.num_queries + query0 + lane];
        if (range.x <= key && key < range.y) pair = backward_pair(a, batch, query0 + lane, head, key);
      }
      add_rows(dv, pair.p, rows, a.value_width,
               [&](int i) { return a.dout.row(batch, a.num_queries, query0 + i, head, a.value_width); });
      add_rows(dk, pair.ds, rows, a.key_width,
               [&](int i) { return a.q.row(batch, a.num_queries, query0 + i, head, a.key_width); });
    }
  }
  const int64_t at = (int64_t(batch) * a.num_keys + key) * a.kv_heads + kv_head;
  store_row(a.dk + at * a.key_width, a.key_width, dk, a.scale);
  store_row(a.dv + at * a.value_width, a.value_width, dv, 1.0f);
}

}  // namespace

void attention_fwd_f32(cudaStream_t stream, const Args& args) {
  fwd_kernel<<<dim3(ceil_div(args.num_queries, kWarps), args.heads, args.batch), 32 * kWarps, 0, stream>>>(
      args);
  check_launch("softmax_attention_f32_fwd");
}

void attention_bwd_f32(cudaStream_t stream, const Args& args) {
  dkdv_kernel<<<dim3(ceil_div(args.num_keys, kWarps), args.kv_heads, args.batch), 32 * kWarps, 0, stream>>>(
      args);
  check_launch("softmax_attention_f32_dkdv");
  dq_kernel<<<dim3(ceil_div(args.num_queries, kWarps), args.heads, args.batch), 32 * kWarps, 0, stream>>>(
      args);
  check_launch("softmax_attention_f32_dq");
}

}  // namespace spanwise::cuda
