#pragma once
// dq, dk, dv and the partial sums of dβ and dG, one block per chunk, value head and block of K's columns. Two
// warpgroups, in which warp w owns tokens 16w..16w+15:
//
//   queries    B = s (dO Nᵀ)∘E∘M    dQ = s e^G∘(dO S₀ᵀ) + B K      J = e^{Ḡ−G}∘(N dS₁ᵀ) + Bᵀ Q
//   keys       X = −(Z Nᵀ)∘E∘M⁻     Ψ = X K − e^G∘(Z S₀ᵀ)          β∘Ψ + Xᵀ (β∘K)
//
// then dK is the sum of the right column, dV = β∘Z, dβ = rowsum(Z∘V) + rowsum(K∘Ψ) and
// dG = rowsum(Q∘dQ) − rowsum(K∘J) + rowsum(K∘(β∘Ψ − Xᵀ (β∘K))), its last element += ⟨S₁, dS₁⟩.
//
// Shared memory is used twice, so that two blocks of 128 x 128 share an SM: dS₁ takes the place of S₀, B and
// β∘X those of dO and Z, dk that of K.

#include "core/ops/cuda/common/async_copy.cuh"
#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/common/vector.cuh"
#include "core/ops/cuda/delta/chunks.cuh"

namespace spanwise::cuda::delta {

inline constexpr int kGroupThreads = 128, kGradientThreads = 2 * kGroupThreads;

template <int kCols, int kV>
struct GradientSmem {
  static constexpr int kRoom = kV > 128 ? kV : 128;  // columns of what is used twice
  bf16 q[kChunk * kCols], k[kChunk * kCols];
  bf16 values[kChunk * kV];
  bf16 states[kRoom * kCols];  // S₀, then dS₁: [V/64, kCols/64] images; at last β∘Ψ + R in fp32, and dk
  bf16 dout[kChunk * kRoom];  // dO; then an image of B, and one of dq
  bf16 z[kChunk * kRoom];     // Z; then an image of β∘X, and one of dq
  float logs[kChunk], beta[kChunk];
  float value_sums[kChunk];  // rowsum(Z∘V)
  float sums[kGradientThreads / 32];
  MBarrier loaded;

  __device__ float* exchange() { return reinterpret_cast<float*>(states); }
  __device__ bf16* dq_image(int i) { return (i == 0 ? dout : z) + kImageElems; }
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
        key_block(blockIdx.x % (args.problem.K / kCols)),
        head(blockIdx.x / (args.problem.K / kCols) % args.problem.HV),
        index(args.selected[blockIdx.x / (args.problem.K / kCols) / args.problem.HV]),
        chunk(args.problem.chunks[index]),
        warp(threadIdx.x % kGroupThreads / 32),
        g(threadIdx.x % 32 / 4),
        t(threadIdx.x % 4),
        row(16 * warp + g) {}

  __device__ __forceinline__ void run() {
    {
      uint4 v[kValueRows];
      load_values(v);
      load();
      if (key_block == 0) value_gradients(v);
    }
    const bool keys = threadIdx.x >= kGroupThreads;  // or queries
    bf16* rows = keys ? smem.z : smem.dout;
    Wide c = {};
    {
      Square square = {};
      multiply_values(rows, square, c);
      __syncthreads();  // Z and dO are read, and S₀
      uint32_t scores[4][4];
      mask(square, keys ? 1 : 0, keys ? -1.0f : p.scale, scores);
      store_scores(scores, keys, rows);
      scale_rows(c, [&](int token) { return (keys ? -1.0f : p.scale) * exp2_fast(smem.logs[token]); });
      add_product(c, scores, smem.k);
    }
    float dots[2], gate[2];  // gate: rowsum(K∘Ψ) or rowsum(Q∘dQ)
    row_dots(c, keys ? smem.k : smem.q, gate);
    float last = exp2_fast(smem.logs[kChunk - 1]) * replace_state();
    if (keys) {
      scale_rows(c, [&](int token) { return smem.beta[token]; });
    } else {
      stage(c, [&](int image) { return smem.dq_image(image); });
    }
    fence_async_proxy();
    __syncthreads();  // dS₁, B and β∘X are in place
    if (!keys) {
      multiply_state(c);
      scale_rows(c, [&](int token) { return exp2_fast(smem.logs[kChunk - 1] - smem.logs[token]); });
      row_dots(c, smem.k, dots);
      if (t == 0) last += dots[0] + dots[1];
    }
    add_transposed_product(c, rows, keys ? smem.k : smem.q);
    row_dots(c, smem.k, dots);
    last = warp_sum(last);
    if (threadIdx.x % 32 == 0) smem.sums[threadIdx.x / 32] = last;
    __syncthreads();  // all images are read
    float* exchange = smem.exchange() + threadIdx.x % kGroupThreads;
    const int64_t count = int64_t(p.K / kCols) * p.num_chunks * p.HV * kChunk;
    float* out = a.partials + ((int64_t(key_block) * p.num_chunks + index) * p.HV + head) * kChunk;
    if (keys) {
#pragma unroll
      for (int i = 0; i < kAccumulators; ++i) exchange[i * kGroupThreads] = c[i];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int token = row + 8 * i;
        if (t != 0) continue;
        // rowsum(K∘(β∘Ψ − R)): dots has that of β∘Ψ + R.
        smem.logs[token] = 2 * smem.beta[token] * gate[i] - dots[i];
        out[count + token] = gate[i] + (key_block == 0 ? smem.value_sums[token] : 0.0f);
      }
    }
    __syncthreads();
    if (!keys) {
#pragma unroll
      for (int i = 0; i < kAccumulators; ++i) c[i] += exchange[i * kGroupThreads];
      stage(c, [&](int image) { return smem.k + image * kImageElems; });
      last = 0;
#pragma unroll
      for (int i = 0; i < kGradientThreads / 32; ++i) last += smem.sums[i];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int token = row + 8 * i;
        if (t == 0)
          out[token] = gate[i] - dots[i] + smem.logs[token] + (token == chunk.length - 1 ? last : 0.0f);
      }
    }
    __syncthreads();  // dq and dk are staged
    write_rows([&](int image) { return smem.dq_image(image); }, a.dq);
    write_rows([&](int image) { return smem.k + image * kImageElems; }, a.dk);
  }

 private:
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
        bulk_load(smem.states + i * 64 * kCols, a.states + state_images(chunk.state_in, i), 64 * kCols * 2,
                  &smem.loaded);
    }
    copy_rows<kV, kGradientThreads>(smem.dout, a.dout, chunk, head * kV, threadIdx.x);
    copy_rows<kCols, kGradientThreads>(smem.k, p.k, chunk, key_head * p.K + key_block * kCols, threadIdx.x);
    copy_rows<kCols, kGradientThreads>(smem.q, p.q, chunk, key_head * p.K + key_block * kCols, threadIdx.x);
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
  __device__ __forceinline__ int64_t state_images(int slot, int v_image) const {
    const int images = p.K / 64;
    return (((int64_t(slot) * p.HV + head) * (kV / 64) + v_image) * images + key_block * (kCols / 64)) *
           kImageElems;
  }
  /// Of the image that holds row k of the state.
  __device__ __forceinline__ uint32_t state_image(int k) const {
    return shared_address(smem.states + k / 64 * 64 * kCols);
  }

  /// scores += rows Nᵀ and wide += rows S₀ᵀ.
  __device__ __forceinline__ void multiply_values(const bf16* rows, Square& scores, Wide& wide) const {
    pin_registers(scores);
    pin_registers(wide);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kV; k += 16) {
      const uint64_t from = columns_descriptor(shared_address(rows), k);
      wgmma<Major::kK, Major::kK>(scores, from, columns_descriptor(shared_address(smem.values), k), 1);
      wgmma<Major::kK, Major::kMN>(wide, from, rows_descriptor(state_image(k), k % 64), 1);
    }
    wgmma_commit();
    wgmma_wait<0>();
    pin_registers(scores);
    pin_registers(wide);
  }
  /// c = N dS₁ᵀ
  __device__ __forceinline__ void multiply_state(Wide& c) const {
#pragma unroll
    for (int i = 0; i < kAccumulators; ++i) c[i] = 0;
    pin_registers(c);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kV; k += 16)
      wgmma<Major::kK, Major::kMN>(c, columns_descriptor(shared_address(smem.values), k),
                                   rows_descriptor(state_image(k), k % 64), 1);
    wgmma_commit();
    wgmma_wait<0>();
    pin_registers(c);
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
  /// c += scoresᵀ · rows
  __device__ __forceinline__ void add_transposed_product(Wide& c, const bf16* scores,
                                                         const bf16* rows) const {
    pin_registers(c);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kChunk; k += 16)
      wgmma<Major::kMN, Major::kMN>(c, rows_descriptor(shared_address(scores), k),
                                    rows_descriptor(shared_address(rows), k), 1);
    wgmma_commit();
    wgmma_wait<0>();
    pin_registers(c);
  }

  /// factor · c∘E where row − column ≥ least, as fragments.
  __device__ __forceinline__ void mask(const Square& c, int least, float factor,
                                       uint32_t (&out)[4][4]) const {
    const float row_logs[2] = {smem.logs[row], smem.logs[row + 8]};
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const int col = 8 * n + 2 * t;
      const float2 log = *reinterpret_cast<const float2*>(smem.logs + col);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int distance = row + 8 * r - col;
        const float* x = c + 4 * n + 2 * r;
        out[n / 2][n % 2 * 2 + r] =
            pack_bf16(distance >= least ? factor * x[0] * exp2_fast(row_logs[r] - log.x) : 0.0f,
                      distance - 1 >= least ? factor * x[1] * exp2_fast(row_logs[r] - log.y) : 0.0f);
      }
    }
  }

  /// The image of B, or of β∘X.
  __device__ __forceinline__ void store_scores(const uint32_t (&scores)[4][4], bool keys, bf16* image) const {
    const float factors[2] = {keys ? smem.beta[row] : 1.0f, keys ? smem.beta[row + 8] : 1.0f};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t scaled[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float2 x = unpack_bf16(scores[i][e]);
        scaled[e] = pack_bf16(factors[e % 2] * x.x, factors[e % 2] * x.y);
      }
      store_a_image(scaled, image, 16 * warp, 16 * i);
    }
  }
  template <class Factor>
  __device__ __forceinline__ void scale_rows(Wide& c, Factor&& factor) const {
    const float factors[2] = {factor(row), factor(row + 8)};
#pragma unroll
    for (int i = 0; i < kAccumulators; ++i) c[i] *= factors[i % 4 / 2];
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

  /// Accumulators in bf16 to images; place(i) is the image of columns 64i..64i+63.
  template <class Place>
  __device__ __forceinline__ void stage(const Wide& c, Place&& place) const {
#pragma unroll
    for (int i = 0; i < kCols / 16; ++i) {
      uint32_t f[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) f[e] = pack_bf16(c[8 * i + 2 * e], c[8 * i + 2 * e + 1]);
      store_a_image(f, place(i / 4), 16 * warp, i % 4 * 16);
    }
  }
  /// All threads: staged images to rows of global memory.
  template <class Place>
  __device__ __forceinline__ void write_rows(Place&& place, const Rows& to) const {
    constexpr int kPieces = kCols / 8, kStep = kGradientThreads / kPieces;
    const int first = threadIdx.x / kPieces, col = threadIdx.x % kPieces * 8;
    bf16* out = to.data + chunk.begin * to.stride + head * p.K + key_block * kCols + col;
    const bf16* image = place(col / 64);
#pragma unroll
    for (int i = 0; i < kChunk / kStep; ++i) {
      const int r = first + i * kStep;
      const uint4 piece = *reinterpret_cast<const uint4*>(image + image_piece(r, col % 64));
      if (r < chunk.length) *reinterpret_cast<uint4*>(out + r * to.stride) = piece;
    }
  }

  // dV = β∘Z and rowsum(Z∘V): every warp eight rows, a lane one piece of kValueRows of them.
  static constexpr int kValuePieces = kV / 8, kValueRows = 8 * kValuePieces / 32;
  static_assert(kValuePieces <= 32);
  __device__ __forceinline__ int value_row(int i) const {
    return threadIdx.x / 32 * 8 + threadIdx.x % 32 / kValuePieces + i * (32 / kValuePieces);
  }
  __device__ __forceinline__ void load_values(uint4 (&v)[kValueRows]) const {
    const bf16* from = a.v.data + chunk.begin * a.v.stride + head * kV + threadIdx.x % kValuePieces * 8;
#pragma unroll
    for (int i = 0; i < kValueRows; ++i) {
      const int r = value_row(i);
      v[i] = r < chunk.length ? *reinterpret_cast<const uint4*>(from + r * a.v.stride) : uint4{};
    }
  }
  __device__ __forceinline__ void value_gradients(const uint4 (&v)[kValueRows]) const {
    const int col = threadIdx.x % kValuePieces * 8;
    bf16* dv = a.dv.data + chunk.begin * a.dv.stride + head * kV + col;
#pragma unroll
    for (int i = 0; i < kValueRows; ++i) {
      const int r = value_row(i);
      const uint32_t* packed = &v[i].x;
      float z[8];
      load_vector<bf16>(smem.z + images_piece(r, col), z);
      float sum = 0;
      const float beta = smem.beta[r];
#pragma unroll
      for (int e = 0; e < 8; e += 2) {
        const float2 x = unpack_bf16(packed[e / 2]);
        sum += z[e] * x.x + z[e + 1] * x.y;
        z[e] *= beta;
        z[e + 1] *= beta;
      }
#pragma unroll
      for (int offset = kValuePieces / 2; offset > 0; offset /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, offset);
      if (r < chunk.length) store_vector<bf16>(dv + r * a.dv.stride, z);
      if (col == 0) smem.value_sums[r] = sum;
    }
  }

  /// dS₁ takes the place of S₀; returns this thread's share of ⟨S₀, dS₁⟩.
  __device__ __forceinline__ float replace_state() const {
    constexpr int kPieces = 64 * kCols / 8;  // of 64 columns of V
    float sum = 0;
    for (int v = 0; v < kV / 64; ++v) {
      const uint4* from =
          reinterpret_cast<const uint4*>(a.dstates + state_images(max(chunk.state_out, 0), v));
      uint4* at = reinterpret_cast<uint4*>(smem.states) + v * kPieces;
#pragma unroll 4
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
  const int key_block, head, index;
  const Chunk chunk;
  const int warp, g, t, row;  ///< row and row + 8 are this thread's tokens
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
