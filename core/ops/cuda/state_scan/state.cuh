#pragma once
// What the warpgroup `states` of kernel.cuh does with a state and with a chunk's outputs.

#include "core/ops/cuda/common/vector.cuh"
#include "core/ops/cuda/state_scan/loads.cuh"

namespace spanwise::cuda::scan {

/// Xᵀ [64, DK] of one slab: this warp's 16 rows in accumulator tiles of 8 columns, parts of up to 128
/// columns.
template <int DK>
struct State {
  static constexpr int kWidth = DK < 128 ? DK : 128, kParts = DK / kWidth;
  float x[kParts][kWidth / 2];

  /// Element e of the tile of columns 8n..8n+7.
  __device__ __forceinline__ float& at(int n, int e) { return x[n * 8 / kWidth][n * 8 % kWidth / 2 + e]; }

  __device__ __forceinline__ void scale(float factor) {
#pragma unroll
    for (int n = 0; n < DK / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) at(n, e) *= factor;
  }
  __device__ __forceinline__ void zero() {
#pragma unroll
    for (int n = 0; n < DK / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) at(n, e) = 0;
  }
  /// fn(element, column of k, column of v in the slab)
  template <class F>
  __device__ __forceinline__ void visit(F&& fn) {
    const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < DK / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        fn(at(n, e), n * 8 + lane % 4 * 2 + e % 2, warp * 16 + lane / 4 + e / 2 * 8);
  }
  /// A fragment of columns 16k..16k+15.
  __device__ __forceinline__ void fragment(int k, uint32_t (&a)[4]) {
    a[0] = pack_bf16(at(2 * k, 0), at(2 * k, 1));
    a[1] = pack_bf16(at(2 * k, 2), at(2 * k, 3));
    a[2] = pack_bf16(at(2 * k + 1, 0), at(2 * k + 1, 1));
    a[3] = pack_bf16(at(2 * k + 1, 2), at(2 * k + 1, 3));
  }
};

/// Saved states keep the registers' order: 16 bytes a thread, fragment by fragment.
template <int DK>
__device__ __forceinline__ uint4* saved_fragments(const ScanParams& p, const Block& b, int slot) {
  const int64_t unit = (int64_t(slot) * p.heads + b.head) * p.slabs + b.slab;
  return static_cast<uint4*>(p.saved_states) + unit * (DK * 64 / 8) + threadIdx.x % kGroup;
}

/// ⟨saved, X⟩ over the slab, added in a fixed order. X is rounded as the chunk's own products round it, so
/// that what dg subtracts again cancels.
template <int DK, Outputs kOutputs>
__device__ __forceinline__ void write_state_dot(const ScanParams& p, const Block& b, int slot,
                                                State<DK>& state, Shared<DK, kOutputs>& s) {
  const uint4* saved = saved_fragments<DK>(p, b, slot);
  float sum = 0;
#pragma unroll
  for (int k = 0; k < DK / 16; ++k) {
    const uint4 raw = saved[k * kGroup];
    const uint32_t pairs[4] = {raw.x, raw.y, raw.z, raw.w};
    uint32_t a[4];
    state.fragment(k, a);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 x = unpack_bf16(pairs[i]), y = unpack_bf16(a[i]);
      sum += x.x * y.x + x.y * y.y;
    }
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) s.state_dots[threadIdx.x / 32 % 4] = sum;
  named_barrier_sync(2, kGroup);
  if (threadIdx.x % kGroup == 0) {
    p.saved_dots[(int64_t(b.slab) * p.num_saved + slot) * p.heads + b.head] =
        (s.state_dots[0] + s.state_dots[1]) + (s.state_dots[2] + s.state_dots[3]);
  }
}

/// Of 2·kKept sums a lane gives half to the lane 2·kKept away and adds the other's to its own half.
template <int kKept>
__device__ __forceinline__ void exchange_sums(float (&sums)[16]) {
  const bool high = threadIdx.x & 2 * kKept;
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    const float mine = high ? sums[i + kKept] : sums[i], other = high ? sums[i] : sums[i + kKept];
    sums[i] = mine + __shfl_xor_sync(0xffffffffu, other, 2 * kKept);
  }
}

/// This warp's Σ over its 16 columns of x∘O for the 64 tokens. `x` has the layout of the outputs.
__device__ __forceinline__ void write_x_dots(const float (&out)[32], const uint32_t (&x)[4][4], float* dots) {
  const int lane = threadIdx.x % 32;
  // Sums of token 16k + 8h + 2t + e, over the two rows of this lane, at [4k + 2h + e].
  float sums[16];
#pragma unroll
  for (int k = 0; k < 4; ++k) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float2 upper = unpack_bf16(x[k][2 * h]), lower = unpack_bf16(x[k][2 * h + 1]);
      const float* o = out + (2 * k + h) * 4;
      sums[4 * k + 2 * h] = upper.x * o[0] + lower.x * o[2];
      sums[4 * k + 2 * h + 1] = upper.y * o[1] + lower.y * o[3];
    }
  }
  // Over the eight lanes of a column: each step halves what a lane keeps.
  exchange_sums<8>(sums);
  exchange_sums<4>(sums);
  exchange_sums<2>(sums);
  const int index = (lane >> 4 & 1) * 8 + (lane >> 3 & 1) * 4 + (lane >> 2 & 1) * 2;
  float* to = dots + index * 4 + lane % 4 * 2;
  to[0] = sums[0];
  to[1] = sums[1];
}

/// Outputs Oᵀ of a chunk as bf16 rows to shared memory.
__device__ __forceinline__ void stage_outputs(const float (&out)[32], unsigned char* buffer) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const SwizzledTile<64> tile{reinterpret_cast<bf16*>(buffer)};
#pragma unroll
  for (int n = 0; n < 8; n += 2) {
    const float* o = out + n * 4;
    stmatrix_x4_trans(
        shared_address(tile.piece(n * 8 + lane / 16 * 8 + lane % 8, warp * 16 + lane / 8 % 2 * 8)),
        pack_bf16(o[0], o[1]), pack_bf16(o[2], o[3]), pack_bf16(o[4], o[5]), pack_bf16(o[6], o[7]));
  }
}

/// From shared to global memory: whole chunks by the copy engine, others row by row, for the rows behind
/// their end belong to other segments.
__device__ __forceinline__ void store_outputs(const ScanParams& p, const ScanMaps& maps, const Block& b,
                                              const ScanChunk& chunk, unsigned char* buffer) {
  if (chunk.length == kScanChunk) {
    if (threadIdx.x % kGroup != 0) return;
    asm volatile(
        "cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(
            &maps.out),
        "r"(shared_address(buffer)), "r"(b.slab * 64), "r"(b.head), "r"(chunk.begin), "r"(0)
        : "memory");
    store_commit();
    return;
  }
  const SwizzledTile<64> tile{reinterpret_cast<bf16*>(buffer)};
  const int piece = threadIdx.x % 8, first = threadIdx.x % kGroup / 8;
  const int64_t stride = int64_t(p.heads) * p.DV;
  bf16* to = static_cast<bf16*>(p.out) + chunk.begin * stride + b.head * p.DV + b.slab * 64 + piece * 8;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = first + 16 * i;
    if (row < chunk.length)
      *reinterpret_cast<uint4*>(to + row * stride) = *reinterpret_cast<uint4*>(tile.piece(row, piece * 8));
  }
}

__device__ __forceinline__ void store_x_dots(const ScanParams& p, const Block& b, const ScanChunk& chunk,
                                             const float (&parts)[4][64]) {
  const int token = threadIdx.x % kGroup;
  if (token >= chunk.length) return;
  p.x_dots[(int64_t(b.slab) * p.heads + b.head) * p.tokens + chunk.begin + token] =
      (parts[0][token] + parts[1][token]) + (parts[2][token] + parts[3][token]);
}

template <int DK>
__device__ __forceinline__ void start_state(const ScanParams& p, const Block& b, const ScanChunk& chunk,
                                            State<DK>& state) {
  if (chunk.start == ScanStart::kGoOn) return;
  if (chunk.start == ScanStart::kZero) {
    state.zero();
    return;
  }
  const float* from = (chunk.start == ScanStart::kRow ? p.first_states : p.cut_states) +
                      (int64_t(chunk.start_slot) * p.heads + b.head) * DK * p.DV +
                      b.slab * 64 * p.state_stride_v;
  state.visit([&](float& x, int k, int v) { x = from[k * p.state_stride_k + v * p.state_stride_v]; });
}

/// What a chunk's end asks for.
template <int DK>
__device__ __forceinline__ void keep_state(const ScanParams& p, const Block& b, const ScanChunk& chunk,
                                           float log_sum, State<DK>& state) {
  if (chunk.saved_slot >= 0 && p.saved_states && !p.saved_dots) {
    uint4* saved = saved_fragments<DK>(p, b, chunk.saved_slot);
#pragma unroll
    for (int k = 0; k < DK / 16; ++k) {
      uint32_t a[4];
      state.fragment(k, a);
      saved[k * kGroup] = {a[0], a[1], a[2], a[3]};
    }
  }
  if (chunk.store == ScanStore::kNowhere) return;
  float* to = (chunk.store == ScanStore::kRow ? p.last_states : p.cut_states) +
              (int64_t(chunk.store_slot) * p.heads + b.head) * DK * p.DV + b.slab * 64 * p.state_stride_v;
  state.visit([&](float& x, int k, int v) { to[k * p.state_stride_k + v * p.state_stride_v] = x; });
  if (chunk.store == ScanStore::kCut && b.slab == 0 && threadIdx.x % kGroup == 0)
    p.cut_logs[int64_t(chunk.store_slot) * p.heads + b.head] = log_sum;
}

/// out = Xᵀ Qᵀ, started (finished for DK 256, which has no registers to spare), and X *= total. Products may
/// not be under way when ordinary instructions write the registers of a later one, so X is scaled before.
template <int DK>
__device__ __forceinline__ void start_reads(State<DK>& state, float total, uint32_t q, float (&out)[32]) {
  constexpr int kStep = DK < 128 ? DK / 16 : 8;  // fragments held at once
#pragma unroll
  for (int first = 0; first < DK / 16; first += kStep) {
    uint32_t a[kStep][4];
#pragma unroll
    for (int k = 0; k < kStep; ++k) state.fragment(first + k, a[k]);
    if (first + kStep == DK / 16) state.scale(total);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kStep; ++k)
      wgmma<Major::kK>(out, a[k], columns_descriptor(q, (first + k) * 16), first + k > 0);
    wgmma_commit();
    if (DK == 256) wgmma_wait<0>();
  }
}

/// Xᵀ += Vᵀ K, started.
template <int DK>
__device__ __forceinline__ void start_update(State<DK>& state, const uint32_t (&v)[4][4], uint32_t keys) {
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; ++k)
#pragma unroll
    for (int part = 0; part < State<DK>::kParts; ++part)
      wgmma<Major::kMN>(state.x[part], v[k],
                        rows_descriptor(keys + part * (State<DK>::kWidth / 64) * kImageBytes, k * 16), 1);
  wgmma_commit();
}

/// out ∘= from, token by token
__device__ __forceinline__ void scale_outputs(const float* from, float (&out)[32]) {
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const float2 factor = reinterpret_cast<const float2*>(from)[n * 4 + threadIdx.x % 4];
    out[4 * n] *= factor.x;
    out[4 * n + 1] *= factor.y;
    out[4 * n + 2] *= factor.x;
    out[4 * n + 3] *= factor.y;
  }
}

/// out += Vᵀ Pᵀ, started.
__device__ __forceinline__ void start_scores(const uint32_t (&v)[4][4], uint32_t scores, float (&out)[32]) {
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; ++k) wgmma<Major::kK>(out, v[k], columns_descriptor(scores, k * 16), 1);
  wgmma_commit();
}

/// This warp's 16 columns of a [64, 64] tile, transposed: A fragments, or the layout of the outputs.
__device__ __forceinline__ void load_columns(const unsigned char* buffer, uint32_t (&a)[4][4]) {
  const SwizzledTile<64> tile{reinterpret_cast<bf16*>(const_cast<unsigned char*>(buffer))};
#pragma unroll
  for (int k = 0; k < 4; ++k) tile.load_a_trans(a[k], threadIdx.x / 32 % 4 * 16, k * 16);
}

/// to∘V
__device__ __forceinline__ void scale_tokens(const uint32_t (&v)[4][4], const float* to,
                                             uint32_t (&scaled)[4][4]) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 factor = reinterpret_cast<const float2*>(to)[k * 8 + i / 2 * 4 + t],
                   pair = unpack_bf16(v[k][i]);
      scaled[k][i] = pack_bf16(pair.x * factor.x, pair.y * factor.y);
    }
  }
}

}  // namespace spanwise::cuda::scan
