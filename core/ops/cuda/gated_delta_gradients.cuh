#pragma once
// dq, dk, dv and the parts of dβ and dG, one block per chunk, value head and part of K's columns. One
// warpgroup; warp w owns tokens 16w..16w+15. In this order, so that two blocks of 128 x 128 share an SM:
//
//   from N     Bᵀ and Xᵀ, products of their own so that they come as register operands
//   from dO    B = s (dO Nᵀ)∘E∘M    dQ = s e^G∘(dO S₀ᵀ) + B K
//   from Z     X = −(Z Nᵀ)∘E∘M⁻     Ψ = X K − e^G∘(Z S₀ᵀ)     dV = β∘Z     dβ = rowsum(Z∘V) + rowsum(K∘Ψ)
//   from N     dS₁ takes S₀'s place:  J = e^{Ḡ−G}∘(N dS₁ᵀ) + Bᵀ Q    R = Xᵀ (β∘K)    dK = J + β∘Ψ + R
//   dG = rowsum(Q∘dQ) − rowsum(K∘J) + rowsum(K∘(β∘Ψ − R)), its last element += ⟨S₁, dS₁⟩

#include "core/ops/cuda/common/async_copy.cuh"
#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/common/vector.cuh"
#include "core/ops/cuda/gated_delta_chunks.cuh"

namespace spanwise::cuda::delta {

inline constexpr int kGradientThreads = 128;

template <int kCols, int kV>
struct GradientSmem {
  bf16 q[kChunk * kCols], k[kChunk * kCols];
  bf16 values[kChunk * kV], z[kChunk * kV];
  bf16 dout[kChunk * (kV > kCols ? kV : kCols)];  // later dq, then dk: every warp its 16 rows
  bf16 states[kV * kCols];                        // S₀, then dS₁: [V/64, kCols/64] images
  float logs[kChunk], beta[kChunk];
  float value_sums[kChunk];  // rowsum(Z∘V)
  float sums[kGradientThreads / 32];
  AsyncBarrier loaded;
};

/// Row sums over the four lanes that share a row.
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

template <int kCols, int kV>
class GradientBlock {
  using Smem = GradientSmem<kCols, kV>;
  static constexpr int kAccumulators = kCols / 2;
  using Wide = float[kAccumulators];  ///< [64, kCols]
  using Square = float[32];           ///< [64, 64]

 public:
  __device__ GradientBlock(Smem& s, const GradientArgs& args)
      : smem(s),
        a(args),
        p(args.problem),
        part(blockIdx.x % (args.problem.K / kCols)),
        head(blockIdx.x / (args.problem.K / kCols) % args.problem.HV),
        index(args.selected[blockIdx.x / (args.problem.K / kCols) / args.problem.HV]),
        chunk(args.problem.chunks[index]),
        warp(threadIdx.x / 32),
        g(threadIdx.x % 32 / 4),
        t(threadIdx.x % 4) {}

  __device__ __forceinline__ void run() {
    load();
    const int row = 16 * warp + g;
    const float* factors = a.factors + (int64_t(index) * p.HV + head) * kFactorElems;
    float from_start[2], to_end[2], beta[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      from_start[r] = factors[kChunk + row + 8 * r];
      to_end[r] = factors[2 * kChunk + row + 8 * r];
      beta[r] = factors[3 * kChunk + row + 8 * r];
    }
    const float total = factors[2 * kChunk - 1];
    float dlog[2], dbeta[2];

    uint32_t b_trans[4][4], x_trans[4][4];
    {
      Square b = {}, x = {};
      multiply(
          smem.values,
          [&](const uint32_t(&f)[4], int k) {
            wgmma_nk(b, f, shared_address(smem.dout), k);
            wgmma_nk(x, f, shared_address(smem.z), k);
          },
          b, x);
      mask<Triangle::kUpper>(b, p.scale, b_trans);
      mask<Triangle::kStrictlyUpper>(x, -1, x_trans);
    }
    if (part == 0) value_gradients();
    __syncthreads();  // dO is read by the other warps, and rowsum(Z∘V) is there
    {
      Square b = {};
      Wide c = {};
      multiply(
          smem.dout,
          [&](const uint32_t(&f)[4], int k) {
            wgmma_nk(b, f, shared_address(smem.values), k);
            wgmma_kn(c, f, state_image(k), k % 64);
          },
          b, c);
      uint32_t scores[4][4];
      mask<Triangle::kLower>(b, p.scale, scores);
      scale_rows(c, p.scale * from_start[0], p.scale * from_start[1]);
      add_product(c, scores, smem.k);
      row_dots(c, smem.q, dlog);
      write_rows(c, a.dq);
    }
    Wide psi = {};
    {
      Square x = {};
      multiply(
          smem.z,
          [&](const uint32_t(&f)[4], int k) {
            wgmma_nk(x, f, shared_address(smem.values), k);
            wgmma_kn(psi, f, state_image(k), k % 64);
          },
          x, psi);
      uint32_t scores[4][4];
      mask<Triangle::kStrictlyLower>(x, -1, scores);
      scale_rows(psi, -from_start[0], -from_start[1]);
      add_product(psi, scores, smem.k);
      row_dots(psi, smem.k, dbeta);
      dlog[0] += beta[0] * dbeta[0];
      dlog[1] += beta[1] * dbeta[1];
      scale_rows(psi, beta[0], beta[1]);
    }
    __syncthreads();  // S₀ is read
    float last = total * replace_state();
    fence_async_proxy();
    __syncthreads();
    Wide dk = {};
    multiply(
        smem.values, [&](const uint32_t(&f)[4], int k) { wgmma_kn(dk, f, state_image(k), k % 64); }, dk);
    scale_rows(dk, to_end[0], to_end[1]);
    float dots[2];
    row_dots(dk, smem.k, dots);
    if (t == 0) last += dots[0] + dots[1];
    add_product(dk, b_trans, smem.q);
    row_dots(dk, smem.k, dots);
    dlog[0] -= dots[0];
    dlog[1] -= dots[1];
#pragma unroll
    for (int i = 0; i < kAccumulators; ++i) dk[i] += psi[i];
    Wide r = {};
    add_product(r, x_trans, smem.k);
    row_dots(r, smem.k, dots);
#pragma unroll
    for (int i = 0; i < kAccumulators; ++i) dk[i] += r[i];
    write_rows(dk, a.dk);

    last = block_sum<kGradientThreads>(last, smem.sums);
    const int64_t parts = int64_t(p.K / kCols) * p.num_chunks * p.HV * kChunk;
    float* out = a.parts + ((int64_t(part) * p.num_chunks + index) * p.HV + head) * kChunk;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = row + 8 * i;
      if (t == 0) {
        out[token] = dlog[i] - dots[i] + (token == chunk.length - 1 ? last : 0.0f);
        out[parts + token] = dbeta[i] + (part == 0 ? smem.value_sums[token] : 0.0f);
      }
    }
  }

 private:
  enum class Triangle { kLower, kStrictlyLower, kUpper, kStrictlyUpper };

  __device__ __forceinline__ void load() {
    const int key_head = head * p.H / p.HV;
    const int64_t at = int64_t(index) * p.HV + head;
    if (threadIdx.x == 0) {
      smem.loaded.init(1);
      fence_barrier_init();
      const float* factors = a.factors + at * kFactorElems;
      constexpr int kValueBytes = kChunk * kV * 2, kGateBytes = kChunk * 4;
      const int state_bytes = chunk.state_in >= 0 ? kV * kCols * 2 : 0;
      smem.loaded.arrive_expecting(2 * kValueBytes + 2 * kGateBytes + state_bytes);
      bulk_load(smem.values, a.values + at * kChunk * kV, kValueBytes, &smem.loaded);
      bulk_load(smem.z, a.z + at * kChunk * kV, kValueBytes, &smem.loaded);
      bulk_load(smem.logs, factors, kGateBytes, &smem.loaded);
      bulk_load(smem.beta, factors + 3 * kChunk, kGateBytes, &smem.loaded);
      for (int i = 0; i < kV / 64 && state_bytes > 0; ++i)
        bulk_load(smem.states + i * 64 * kCols, a.states + state_part(chunk.state_in, i), 64 * kCols * 2,
                  &smem.loaded);
    }
    copy_rows<kV, kGradientThreads>(smem.dout, a.dout, chunk, head * kV, threadIdx.x);
    copy_rows<kCols, kGradientThreads>(smem.k, p.k, chunk, key_head * p.K + part * kCols, threadIdx.x);
    copy_rows<kCols, kGradientThreads>(smem.q, p.q, chunk, key_head * p.K + part * kCols, threadIdx.x);
    copy_async_commit();
    if (chunk.state_in < 0) {
      for (int i = threadIdx.x; i < kV * kCols / 8; i += kGradientThreads)
        reinterpret_cast<uint4*>(smem.states)[i] = uint4{};
    }
    copy_async_wait<0>();
    fence_async_proxy();
    __syncthreads();
    smem.loaded.wait(0);
  }

  /// Element index of this block's columns of K in 64 columns of V of a state.
  __device__ __forceinline__ int64_t state_part(int slot, int v_image) const {
    const int images = p.K / 64;
    return (((int64_t(slot) * p.HV + head) * (kV / 64) + v_image) * images + part * (kCols / 64)) *
           kImageElems;
  }
  /// Of the image that holds row k of the state.
  __device__ __forceinline__ uint32_t state_image(int k) const {
    return shared_address(smem.states + k / 64 * 64 * kCols);
  }

  /// issue(A fragment, its first column) for all of V; then all products are complete.
  template <class Issue, int... kCounts>
  __device__ __forceinline__ void multiply(const bf16* rows, Issue&& issue, float (&... c)[kCounts]) const {
    constexpr int kGroup = kV / 16 < 8 ? kV / 16 : 8;
#pragma unroll
    for (int first = 0; first < kV / 16; first += kGroup) {
      uint32_t f[kGroup][4];
#pragma unroll
      for (int i = 0; i < kGroup; ++i) load_a_image(f[i], rows, 16 * warp, 16 * (first + i));
      (pin_registers(c), ...);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < kGroup; ++i) issue(f[i], 16 * (first + i));
      wgmma_commit();
      wgmma_wait<0>();
      (pin_registers(c), ...);
    }
  }

  /// c += scores · rows
  __device__ __forceinline__ void add_product(Wide& c, const uint32_t (&scores)[4][4],
                                              const bf16* rows) const {
    pin_registers(c);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) wgmma_kn(c, scores[i], shared_address(rows), 16 * i);
    wgmma_commit();
    wgmma_wait<0>();
    pin_registers(c);
  }

  /// factor · c∘E on a triangle, as fragments; the strictly upper one also times β of its columns.
  template <Triangle kTriangle>
  __device__ __forceinline__ void mask(const Square& c, float factor, uint32_t (&out)[4][4]) const {
    constexpr bool kIsUpper = kTriangle == Triangle::kUpper || kTriangle == Triangle::kStrictlyUpper;
    constexpr int kDiagonal = kTriangle == Triangle::kStrictlyLower || kTriangle == Triangle::kStrictlyUpper;
    const int row = 16 * warp + g;
    const float row_logs[2] = {smem.logs[row], smem.logs[row + 8]};
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const int col = 8 * n + 2 * t;
      const float2 log = *reinterpret_cast<const float2*>(smem.logs + col);
      float2 by{factor, factor};
      if (kTriangle == Triangle::kStrictlyUpper) {
        const float2 beta = *reinterpret_cast<const float2*>(smem.beta + col);
        by = {factor * beta.x, factor * beta.y};
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int distance = kIsUpper ? col - (row + 8 * r) : row + 8 * r - col;
        const float x = kIsUpper ? log.x - row_logs[r] : row_logs[r] - log.x;
        const float y = kIsUpper ? log.y - row_logs[r] : row_logs[r] - log.y;
        out[n / 2][n % 2 * 2 + r] = pack_bf16(
            distance >= kDiagonal ? by.x * c[4 * n + 2 * r] * exp2_fast(x) : 0.0f,
            distance + (kIsUpper ? 1 : -1) >= kDiagonal ? by.y * c[4 * n + 2 * r + 1] * exp2_fast(y) : 0.0f);
      }
    }
  }

  __device__ __forceinline__ void scale_rows(Wide& c, float upper, float lower) const {
#pragma unroll
    for (int i = 0; i < kAccumulators; ++i) c[i] *= i % 4 < 2 ? upper : lower;
  }

  /// rowsum(c∘rows) for this thread's two rows.
  __device__ __forceinline__ void row_dots(const Wide& c, const bf16* rows, float (&dots)[2]) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float sum = 0;
#pragma unroll
      for (int n = 0; n < kCols / 8; ++n) {
        const int at = images_piece(16 * warp + g + 8 * r, 8 * n) + 2 * t;
        const float2 x = unpack_bf16(*reinterpret_cast<const uint32_t*>(rows + at));
        sum += c[4 * n + 2 * r] * x.x + c[4 * n + 2 * r + 1] * x.y;
      }
      dots[r] = quad_sum(sum);
    }
  }

  /// Writes this warp's 16 rows, through dout's place in shared memory.
  __device__ __forceinline__ void write_rows(const Wide& c, const Rows& to) const {
    const int lane = threadIdx.x % 32;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kCols / 16; ++i) {
      uint32_t f[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) f[e] = pack_bf16(c[8 * i + 2 * e], c[8 * i + 2 * e + 1]);
      store_a_image(f, smem.dout, 16 * warp, 16 * i);
    }
    __syncwarp();
    constexpr int kPieces = kCols / 8;
    bf16* out = to.data + chunk.begin * to.stride + head * p.K + part * kCols;
#pragma unroll
    for (int i = lane; i < 16 * kPieces; i += 32) {
      const int row = 16 * warp + i / kPieces, col = i % kPieces * 8;
      const uint4 piece = *reinterpret_cast<const uint4*>(smem.dout + images_piece(row, col));
      if (row < chunk.length) *reinterpret_cast<uint4*>(out + row * to.stride + col) = piece;
    }
  }

  /// dV = β∘Z and rowsum(Z∘V) of this warp's rows.
  __device__ __forceinline__ void value_gradients() const {
    constexpr int kPieces = kV / 8;  // of a row, one a lane
    static_assert(kPieces <= 32);
    const int lane = threadIdx.x % 32, col = lane % kPieces * 8;
    const bf16* v = a.v.data + chunk.begin * a.v.stride + head * kV + col;
    bf16* dv = a.dv.data + chunk.begin * a.dv.stride + head * kV + col;
#pragma unroll 4
    for (int i = 0; i < 16; i += 32 / kPieces) {
      const int row = 16 * warp + i + lane / kPieces;
      const bool inside = row < chunk.length;
      float z[8], x[8] = {};
      load_vector<bf16>(smem.z + images_piece(row, col), z);
      if (inside) load_vector<bf16>(v + row * a.v.stride, x);
      float sum = 0;
      const float beta = smem.beta[row];
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        sum += z[e] * x[e];
        z[e] *= beta;
      }
#pragma unroll
      for (int offset = kPieces / 2; offset > 0; offset /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, offset);
      if (inside) store_vector<bf16>(dv + row * a.dv.stride, z);
      if (lane % kPieces == 0) smem.value_sums[row] = sum;
    }
  }

  /// dS₁ takes the place of S₀; returns this thread's part of ⟨S₀, dS₁⟩.
  __device__ __forceinline__ float replace_state() const {
    constexpr int kPieces = 64 * kCols / 8;  // of 64 columns of V
    float sum = 0;
    for (int v = 0; v < kV / 64; ++v) {
      const uint4* from = reinterpret_cast<const uint4*>(a.dstates + state_part(max(chunk.state_out, 0), v));
      uint4* at = reinterpret_cast<uint4*>(smem.states) + v * kPieces;
#pragma unroll 8
      for (int i = threadIdx.x; i < kPieces; i += kGradientThreads) {
        const uint4 d = chunk.state_out >= 0 ? from[i] : uint4{}, s = at[i];
        const uint32_t *dx = &d.x, *sx = &s.x;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float2 x = unpack_bf16(dx[e]), y = unpack_bf16(sx[e]);
          sum += x.x * y.x + x.y * y.y;
        }
        at[i] = d;
      }
    }
    return sum;
  }

  Smem& smem;
  const GradientArgs& a;
  const Problem& p;
  const int part, head, index;
  const Chunk chunk;
  const int warp, g, t;
};

template <int kCols, int kV>
__global__ void __launch_bounds__(kGradientThreads, sizeof(GradientSmem<kCols, kV>) <= 115712 ? 2 : 1)
    gradients_kernel(const __grid_constant__ GradientArgs args) {
  extern __shared__ __align__(1024) unsigned char smem_bytes[];
  GradientBlock<kCols, kV>(*reinterpret_cast<GradientSmem<kCols, kV>*>(smem_bytes), args).run();
}

template <int kCols, int kV>
void launch_gradients_of(cudaStream_t stream, const GradientArgs& args) {
  constexpr int kBytes = sizeof(GradientSmem<kCols, kV>);
  const int64_t blocks = int64_t(args.num_selected) * args.problem.HV * (args.problem.K / kCols);
  if (blocks == 0) return;
  allow_shared_memory(gradients_kernel<kCols, kV>, kBytes);
  gradients_kernel<kCols, kV><<<unsigned(blocks), kGradientThreads, kBytes, stream>>>(args);
  check_launch("gated_delta_gradients");
}

}  // namespace spanwise::cuda::delta
