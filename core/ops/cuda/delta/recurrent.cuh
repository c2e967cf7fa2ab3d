#pragma once
// The token recurrence and its reverse. A block of eight warps owns 32 columns of V of one value head over
// one segment: a lane a column, a warp every eighth row of the state, which stays in registers.

#include "core/ops/cuda/common/vector.cuh"
#include "core/ops/cuda/delta/sizes.h"

namespace spanwise::cuda::recurrent {

struct Segment {
  int row, begin, length;  ///< tokens
  int chunk;               ///< tokens from one saved state to the next
  int first_state;         ///< index of the saved state after the first chunk
  bool from_initial, ends_row;
};

template <class T>
struct HeadRows {
  T* data;
  int64_t stride;
};

struct Args {
  const Segment* segments;
  int num_segments, H, HV, K, V;
  float scale;
  HeadRows<const float> q, k, v;          ///< v may be nullptr: zeros
  HeadRows<const float> log_decay, beta;  ///< log_decay may be nullptr
  const float* initial;                   ///< [B, HV, K, V] or nullptr
  bool from_identity;
  float* states;  ///< [states, HV, K, V] or nullptr: written forward, read backward
  // Forward.
  HeadRows<float> out;  ///< may be nullptr
  float* final;         ///< [B, HV, K, V]
  // Backward.
  HeadRows<const float> dout;
  const float* dfinal;  ///< or nullptr
  float* dinitial;      ///< or nullptr
  float* scratch;       ///< [blocks, chunk, K, 32]: the states inside a chunk
  int scratch_tokens;
  int64_t tokens;
  float *dq, *dk;       ///< [V / 32, tokens, HV, K]
  float *dlog, *dbeta;  ///< [V / 32, tokens, HV]
  HeadRows<float> dv;
};

/// A block's place, and the sums over rows that it needs once or twice a token.
template <int kRows>
struct Block {
  const Args& a;
  Segment segment;
  int head, key_head, slab, num_slabs, warp, lane, column;
  bool inside;  ///< the column exists
  float (*sums)[kColumns];

  __device__ Block(const Args& args, float (*sums)[kColumns]) : a(args), sums(sums) {
    num_slabs = (a.V + kColumns - 1) / kColumns;
    slab = blockIdx.x % num_slabs;
    head = blockIdx.x / num_slabs % a.HV;
    segment = a.segments[blockIdx.x / num_slabs / a.HV];
    key_head = head * a.H / a.HV;
    warp = threadIdx.x / 32;
    lane = threadIdx.x % 32;
    column = slab * kColumns + lane;
    inside = column < a.V;
  }
  __device__ int row(int j) const { return warp + kWarps * j; }
  __device__ int64_t matrix(int64_t index) const { return (index * a.HV + head) * a.K * a.V; }
  __device__ void load_state(float (&s)[kRows], const float* from) const {
#pragma unroll
    for (int j = 0; j < kRows; ++j)
      s[j] = from && inside && row(j) < a.K ? from[int64_t(row(j)) * a.V + column] : 0.0f;
  }
  __device__ void store_state(const float (&s)[kRows], float* to) const {
#pragma unroll
    for (int j = 0; j < kRows; ++j)
      if (inside && row(j) < a.K) to[int64_t(row(j)) * a.V + column] = s[j];
  }
  __device__ void load_rows(float (&x)[kRows], const HeadRows<const float>& from, int64_t token) const {
    const float* p = from.data + token * from.stride + int64_t(key_head) * a.K;
#pragma unroll
    for (int j = 0; j < kRows; ++j) x[j] = row(j) < a.K ? p[row(j)] : 0.0f;
  }
  __device__ float load_column(const HeadRows<const float>& from, int64_t token) const {
    return from.data && inside ? from.data[token * from.stride + int64_t(head) * a.V + column] : 0.0f;
  }
  __device__ float decay(int64_t token) const {
    return a.log_decay.data ? expf(a.log_decay.data[token * a.log_decay.stride + head]) : 1.0f;
  }
  __device__ float beta(int64_t token) const {
    return a.beta.data[token * a.beta.stride + head];
  }
  /// Σ_rows x∘y for this thread's column, on every warp.
  __device__ float dot(const float (&x)[kRows], const float (&y)[kRows]) const {
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kRows; ++j) sum += x[j] * y[j];
    sums[warp][lane] = sum;
    __syncthreads();
    float total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += sums[w][lane];
    __syncthreads();
    return total;
  }
  /// One token: s becomes the state after it. Returns what it wrote, w.
  __device__ float step(float (&s)[kRows], const float (&k)[kRows], int64_t token) const {
    const float e = decay(token);
#pragma unroll
    for (int j = 0; j < kRows; ++j) s[j] *= e;
    const float w = beta(token) * (load_column(a.v, token) - dot(s, k));
#pragma unroll
    for (int j = 0; j < kRows; ++j) s[j] += k[j] * w;
    return w;
  }
};

template <int kRows>
__global__ void __launch_bounds__(kThreads) forward_kernel(const __grid_constant__ Args a) {
  __shared__ float sums[kWarps][kColumns];
  const Block<kRows> b(a, sums);
  float s[kRows], k[kRows], q[kRows];
  b.load_state(s, a.initial && b.segment.from_initial ? a.initial + b.matrix(b.segment.row) : nullptr);
  if (a.from_identity) {
#pragma unroll
    for (int j = 0; j < kRows; ++j) s[j] = float(b.row(j) == b.column);
  }
  for (int t = 0; t < b.segment.length; ++t) {
    const int64_t token = b.segment.begin + t;
    if (a.states && t > 0 && t % b.segment.chunk == 0)
      b.store_state(s, a.states + b.matrix(b.segment.first_state + t / b.segment.chunk - 1));
    b.load_rows(k, a.k, token);
    b.step(s, k, token);
    if (!a.out.data) continue;
    b.load_rows(q, a.q, token);
    const float o = a.scale * b.dot(s, q);
    if (b.warp == 0 && b.inside) a.out.data[token * a.out.stride + int64_t(b.head) * a.V + b.column] = o;
  }
  if (b.segment.ends_row) b.store_state(s, a.final + b.matrix(b.segment.row));
}

/// dS only.
template <int kRows>
__global__ void __launch_bounds__(kThreads) state_gradient_kernel(const __grid_constant__ Args a) {
  __shared__ float sums[kWarps][kColumns];
  const Block<kRows> b(a, sums);
  float d[kRows] = {}, k[kRows], q[kRows];
  for (int t = b.segment.length - 1; t >= 0; --t) {
    const int64_t token = b.segment.begin + t;
    b.load_rows(k, a.k, token);
    b.load_rows(q, a.q, token);
    const float dout = a.scale * b.load_column(a.dout, token), e = b.decay(token);
#pragma unroll
    for (int j = 0; j < kRows; ++j) d[j] += q[j] * dout;
    const float u = b.beta(token) * b.dot(d, k);
#pragma unroll
    for (int j = 0; j < kRows; ++j) d[j] = e * (d[j] - k[j] * u);
  }
  b.store_state(d, a.dinitial + b.matrix(b.segment.row));
}

template <int kRows>
__global__ void __launch_bounds__(kThreads) backward_kernel(const __grid_constant__ Args a) {
  __shared__ float sums[kWarps][kColumns];
  const Block<kRows> b(a, sums);
  float d[kRows], s[kRows], k[kRows], q[kRows];
  b.load_state(d, a.dfinal && b.segment.ends_row ? a.dfinal + b.matrix(b.segment.row) : nullptr);
  float* scratch = a.scratch + int64_t(blockIdx.x) * a.scratch_tokens * kRows * kThreads;
  const int chunk = b.segment.chunk;
  for (int first = (b.segment.length - 1) / chunk * chunk; first >= 0; first -= chunk) {
    const float* saved = first > 0 ? a.states + b.matrix(b.segment.first_state + first / chunk - 1)
                         : a.initial && b.segment.from_initial ? a.initial + b.matrix(b.segment.row)
                                                               : nullptr;
    const int last = min(first + chunk, b.segment.length);
    b.load_state(s, saved);
    for (int t = first; t < last; ++t) {
#pragma unroll
      for (int j = 0; j < kRows; ++j)
        scratch[(int64_t(t - first) * kRows + j) * kThreads + threadIdx.x] = s[j];
      b.load_rows(k, a.k, b.segment.begin + t);
      b.step(s, k, b.segment.begin + t);
    }
    for (int t = last - 1; t >= first; --t) {
      const int64_t token = b.segment.begin + t;
      const float e = b.decay(token), beta = b.beta(token), dout = a.scale * b.load_column(a.dout, token);
      b.load_rows(k, a.k, token);
      b.load_rows(q, a.q, token);
      // s: the state before the token, decayed; d: the gradient of the state after it.
#pragma unroll
      for (int j = 0; j < kRows; ++j) {
        s[j] = e * scratch[(int64_t(t - first) * kRows + j) * kThreads + threadIdx.x];
        d[j] += q[j] * dout;
      }
      const float rest = b.load_column(a.v, token) - b.dot(s, k), w = beta * rest, dw = b.dot(d, k),
                  u = beta * dw;
      const int64_t at = (b.slab * a.tokens + token) * a.HV + b.head;
      float dlog = 0;
#pragma unroll
      for (int j = 0; j < kRows; ++j) {
        const float dq = warp_sum((s[j] + k[j] * w) * dout), dk = warp_sum(d[j] * w - s[j] * u);
        if (b.lane == 0 && b.row(j) < a.K) {
          a.dq[at * a.K + b.row(j)] = dq;
          a.dk[at * a.K + b.row(j)] = dk;
        }
        d[j] -= k[j] * u;
        dlog += d[j] * s[j];
        d[j] *= e;
      }
      dlog = block_sum<kThreads>(dlog, &sums[0][0]);
      const float dbeta = warp_sum(dw * rest);
      if (b.warp == 0) {
        if (b.inside) a.dv.data[token * a.dv.stride + int64_t(b.head) * a.V + b.column] = u;
        if (b.lane == 0) {
          const bool no_state = t == 0 && !saved;
          a.dbeta[at] = dbeta;
          if (a.dlog) a.dlog[at] = no_state ? 0.0f : dlog;
        }
      }
    }
  }
  if (a.dinitial && b.segment.from_initial) b.store_state(d, a.dinitial + b.matrix(b.segment.row));
}

/// out [tokens, H, width] = Σ over slabs and the value heads of each key head of partials [slabs, tokens, HV,
/// width], in order, for the tokens of some segments.
struct SumPartials {
  const Segment* segments;
  int slabs, H, HV, width;
  int64_t tokens;
  const float* partials;
  float* out;
};
inline __global__ void __launch_bounds__(kThreads) sum_partials_kernel(SumPartials a) {
  const Segment segment = a.segments[blockIdx.x];
  const int group = a.HV / a.H;
  const int64_t count = int64_t(segment.length) * a.H * a.width, stride = int64_t(gridDim.y) * kThreads;
  for (int64_t i = int64_t(blockIdx.y) * kThreads + threadIdx.x; i < count; i += stride) {
    const int64_t row = int64_t(segment.begin) * a.H + i / a.width, col = i % a.width;
    float sum = 0;
    for (int j = 0; j < group; ++j) {
      for (int slab = 0; slab < a.slabs; ++slab)
        sum += a.partials[(slab * a.tokens * a.HV + row * group + j) * a.width + col];
    }
    a.out[row * a.width + col] = sum;
  }
}

}  // namespace spanwise::cuda::recurrent
