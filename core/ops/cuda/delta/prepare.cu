// Decay factors, Θ = (I + Λ)⁻¹ and A of every chunk. One block per chunk and value head, four warps: warp w
// computes block row w of KKᵀ and block row 3 − w of QKᵀ in blocks of 16 tokens, the lower halves only.
//
// The inverse: 16 x 16 diagonal blocks by forward substitution in fp32, a lane per column; then warp j
// computes block column j of Θ, as rows of Θᵀ, so that a product's accumulators are the next one's A:
//
//   Θᵀ_ji = −(Σ_{j ≤ m < i} Θᵀ_jm Λᵀ_mi) Θᵀ_ii
//
// Every operand of these products is the sum of two bf16, x = high + low: about 16 bits of mantissa.

#include "core/ops/cuda/common/async_copy.cuh"
#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/delta/chunks.cuh"

namespace spanwise::cuda::delta {

namespace {

constexpr int kThreads = 128;
constexpr int kLambdaStride = 72;  // floats; float2 reads of eight rows hit all banks once
constexpr float kLog2e = 1.4426950408889634f;
// e^-100 is zero in fp32, and sums over a chunk keep their low digits.
constexpr float kSmallestLog = -100.0f;

/// Inclusive sums of 64 log decays in log2, and what follows from them. One warp.
__device__ void make_factors(const PrepareArgs& args, const Chunk& chunk, int head, float* factors) {
  const int lane = threadIdx.x;
  const float* g =
      args.log_decay ? args.log_decay + int64_t(chunk.begin) * args.log_decay_stride + head : nullptr;
  const float* beta = args.beta + int64_t(chunk.begin) * args.beta_stride + head;
  float sums[2] = {0, 0};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int i = half * 32 + lane;
    const bool inside = i < chunk.length;
    factors[3 * kChunk + i] = inside ? beta[i * args.beta_stride] : 0.0f;
    float sum = inside && g ? fmaxf(g[i * args.log_decay_stride], kSmallestLog) * kLog2e : 0.0f;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const float before = __shfl_up_sync(0xffffffffu, sum, offset);
      if (lane >= offset) sum += before;
    }
    sums[half] = sum;
  }
  sums[1] += __shfl_sync(0xffffffffu, sums[0], 31);
  const float total = __shfl_sync(0xffffffffu, sums[1], 31);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int i = half * 32 + lane;
    factors[i] = sums[half];
    factors[kChunk + i] = exp2_fast(sums[half]);
    factors[2 * kChunk + i] = exp2_fast(total - sums[half]);
  }
}

/// x = high + low in bf16, for two neighbours.
struct Split {
  uint32_t high, low;
};
__device__ __forceinline__ Split split(float2 x) {
  const uint32_t high = pack_bf16(x.x, x.y);
  const float2 rounded = unpack_bf16(high);
  return {high, pack_bf16(x.x - rounded.x, x.y - rounded.y)};
}

struct SplitFragment {
  uint32_t high[4], low[4];
};
__device__ __forceinline__ SplitFragment split_accumulators(const float (&c)[2][4], float sign) {
  SplitFragment f;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const Split s = split({sign * c[i / 2][i % 2 * 2], sign * c[i / 2][i % 2 * 2 + 1]});
    f.high[i] = s.high;
    f.low[i] = s.low;
  }
  return f;
}

/// c += a·blockᵀ, the 16 x 16 block at `block` stored with row stride kLambdaStride.
__device__ __forceinline__ void multiply_block(float (&c)[2][4], const SplitFragment& a, const float* block) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const float* row = block + (8 * n + g) * kLambdaStride + 2 * t;
    const Split b0 = split(*reinterpret_cast<const float2*>(row));
    const Split b1 = split(*reinterpret_cast<const float2*>(row + 8));
    mma_16816(c[n], a.low, b0.high, b1.high);
    mma_16816(c[n], a.high, b0.low, b1.low);
    mma_16816(c[n], a.high, b0.high, b1.high);
  }
}

/// The unit lower triangular block becomes its inverse. One warp.
__device__ __forceinline__ void invert_block(float* block) {
  const int column = threadIdx.x % 16;
  float x[16];
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    float sums[4] = {i == column ? 1.0f : 0.0f, 0, 0, 0};
#pragma unroll
    for (int j = 0; j < i; j += 4) {
      const float4 row = *reinterpret_cast<const float4*>(block + i * kLambdaStride + j);
      const float l[4] = {row.x, row.y, row.z, row.w};
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        if (j + m < i) sums[m] -= l[m] * x[j + m];
      }
    }
    x[i] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
  __syncwarp();
  if (threadIdx.x % 32 < 16) {
#pragma unroll
    for (int i = 0; i < 16; ++i) block[i * kLambdaStride + column] = x[i];
  }
}

/// Block column `j` of Θ into the image, from Λ with inverted diagonal blocks. One warp.
__device__ __forceinline__ void invert_column(const float* lambda, bf16* theta, int j) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const auto block = [&](int i, int m) { return lambda + 16 * i * kLambdaStride + 16 * m; };
  SplitFragment rows[4];  // Θᵀ_jm
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i < j) {
      rows[i] = {};
    } else if (i == j) {
      float diagonal[2][4];
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const int row = g + e / 2 % 2 * 8, col = 2 * t + e % 2 + e / 4 * 8;
        diagonal[e / 4][e % 4] = block(j, j)[col * kLambdaStride + row];
      }
      rows[i] = split_accumulators(diagonal, 1);
    } else {
      float sum[2][4] = {}, product[2][4] = {};
#pragma unroll
      for (int m = 0; m < i; ++m) {
        if (m >= j) multiply_block(sum, rows[m], block(i, m));
      }
      multiply_block(product, split_accumulators(sum, -1), block(i, i));
      rows[i] = split_accumulators(product, 1);
    }
    store_a_image_trans(rows[i].high, theta, 16 * j, 16 * i);
  }
}

template <int kK>
struct Smem {
  union {
    struct {
      bf16 q[kChunk * kK], k[kChunk * kK];
    };
    struct {
      bf16 theta[kImageElems], scores[kImageElems];  // after the products
    };
  };
  float lambda[kChunk * kLambdaStride];
  float factors[kFactorElems];
};

template <int kK>
__global__ void __launch_bounds__(kThreads) prepare_kernel(PrepareArgs args) {
  extern __shared__ __align__(1024) unsigned char smem_bytes[];
  Smem<kK>& smem = *reinterpret_cast<Smem<kK>*>(smem_bytes);
  const Problem& p = args.problem;
  const int head = blockIdx.x % p.HV, index = blockIdx.x / p.HV, key_head = head * p.H / p.HV;
  const Chunk chunk = p.chunks[index];
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;

  copy_rows<kK, kThreads>(smem.k, p.k, chunk, key_head * kK, threadIdx.x);
  copy_rows<kK, kThreads>(smem.q, p.q, chunk, key_head * kK, threadIdx.x);
  copy_async_commit();
  if (warp == 0) make_factors(args, chunk, head, smem.factors);
  copy_async_wait<0>();
  __syncthreads();

  // Block rows of the lower halves: kk[j] is block (warp, j), qk[j] block (3 - warp, j).
  float kk[4][2][4] = {}, qk[4][2][4] = {};
  const int k_row = warp, q_row = 3 - warp;
#pragma unroll
  for (int k = 0; k < kK; k += 16) {
    uint32_t a_k[4], a_q[4];
    load_a_image(a_k, smem.k, 16 * k_row, k);
    load_a_image(a_q, smem.q, 16 * q_row, k);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j > k_row && j > q_row) continue;
      uint32_t b[4];
      const int lane = threadIdx.x % 32;
      ldmatrix_x4(
          b, shared_address(smem.k + images_piece(16 * j + lane % 8 + lane / 16 * 8, k + lane / 8 % 2 * 8)));
      if (j <= k_row) {
        mma_16816(kk[j][0], a_k, b[0], b[1]);
        mma_16816(kk[j][1], a_k, b[2], b[3]);
      }
      if (j <= q_row) {
        mma_16816(qk[j][0], a_q, b[0], b[1]);
        mma_16816(qk[j][1], a_q, b[2], b[3]);
      }
    }
  }
  __syncthreads();  // q and k are read; the images take their place

  const float* logs = smem.factors;
  const float* beta = smem.factors + 3 * kChunk;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int ki = 16 * k_row + g + 8 * half, qi = 16 * q_row + g + 8 * half;
    const float k_log = logs[ki], q_log = logs[qi], k_beta = beta[ki];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int col = 16 * j + 8 * n + 2 * t;
        const float2 log = *reinterpret_cast<const float2*>(logs + col);
        if (j <= k_row) {
          const float* x = kk[j][n] + 2 * half;
          *reinterpret_cast<float2*>(smem.lambda + ki * kLambdaStride + col) =
              float2{col < ki ? k_beta * x[0] * exp2_fast(k_log - log.x) : 0.0f,
                     col + 1 < ki ? k_beta * x[1] * exp2_fast(k_log - log.y) : 0.0f};
        }
        uint32_t a = 0;
        if (j <= q_row) {
          const float* x = qk[j][n] + 2 * half;
          a = pack_bf16(col <= qi ? p.scale * x[0] * exp2_fast(q_log - log.x) : 0.0f,
                        col + 1 <= qi ? p.scale * x[1] * exp2_fast(q_log - log.y) : 0.0f);
        }
        *reinterpret_cast<uint32_t*>(smem.scores + image_at(qi, col)) = a;
      }
    }
  }
  __syncwarp();
  invert_block(smem.lambda + 16 * warp * (kLambdaStride + 1));
  __syncthreads();
  invert_column(smem.lambda, smem.theta, warp);

  const int64_t at = int64_t(index) * p.HV + head;
  for (int i = threadIdx.x; i < kFactorElems / 4; i += kThreads)
    reinterpret_cast<float4*>(args.factors + at * kFactorElems)[i] =
        reinterpret_cast<const float4*>(smem.factors)[i];
  fence_async_proxy();
  __syncthreads();
  if (threadIdx.x == 0) {
    bulk_store(args.theta + at * kImageElems, smem.theta, kImageBytes);
    bulk_store(args.scores + at * kImageElems, smem.scores, kImageBytes);
    bulk_store_commit();
    bulk_store_wait_read();
  }
}

template <int kK>
void launch(cudaStream_t stream, const PrepareArgs& args) {
  constexpr int kBytes = sizeof(Smem<kK>);
  allow_shared_memory(prepare_kernel<kK>, kBytes);
  prepare_kernel<kK><<<unsigned(args.problem.num_chunks * args.problem.HV), kThreads, kBytes, stream>>>(args);
  check_launch("gated_delta_prepare");
}

}  // namespace

void launch_prepare(cudaStream_t stream, const PrepareArgs& args) {
  with_width(args.problem.K, [&](auto k) { launch<decltype(k)::value>(stream, args); });
}

}  // namespace spanwise::cuda::delta
