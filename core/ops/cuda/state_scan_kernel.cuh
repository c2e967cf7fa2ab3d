#pragma once
// The bf16 kernel of state_scan.h. Three warpgroups a block, tied by barriers in shared memory:
//
//   loads    Q, K [64, DK] and 64 columns of V (and x) by TMA into a ring of stages; decays of the chunk
//   scores   P = s (QKᵀ)∘E∘M [64, 64], bf16, to one of two buffers
//   states   Xᵀ [64, DK] fp32 in registers; Oᵀ = from∘(Xᵀ Qᵀ) + Vᵀ Pᵀ, Xᵀ ← e^Ḡ Xᵀ + (to∘V)ᵀ K, with Xᵀ
//            and Vᵀ as register operands, so that a state never passes through shared memory
//
// The tensor cores work for `scores` while `states` rounds and stores outputs. Rows behind a chunk's end hold
// other segments' tokens: they get no weight.

#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/common/mbarrier.cuh"
#include "core/ops/cuda/common/tma.cuh"
#include "core/ops/cuda/common/vector.cuh"
#include "core/ops/cuda/state_scan_device.h"
#include "core/ops/cuda/state_scan_wgmma.cuh"

namespace spanwise::cuda::scan {

constexpr int kThreads = 384, kGroup = 128;
constexpr float kLog2E = 1.4426950408889634f;

/// What `loads` tells the others about a chunk.
struct ChunkInfo {
  float log_sums[64];  ///< G, base 2
  float from[64];      ///< r e^{G}, or r e^{Ḡ−G} backward in time
  float to[64];        ///< w e^{Ḡ−G}, or w e^{G}
  float total, log_total;
  ScanChunk chunk;
};

/// What a launch writes beside states.
enum class Outputs { kNone, kOut, kOutAndDots };

template <int DK, Outputs kOutputs>
struct Shared {
  static constexpr int kSubtiles = DK / 64;
  static constexpr bool kDots = kOutputs == Outputs::kOutAndDots;
  static constexpr int kStages = DK == 64 ? (kDots ? 4 : 6) : DK == 128 ? (kDots ? 3 : 4) : 2;
  static constexpr int kQ = 0, kK = kSubtiles * kSubtileBytes, kV = 2 * kK, kX = kV + kSubtileBytes;
  static constexpr int kStageBytes = kDots ? kX + kSubtileBytes : kX;
  static constexpr int kLoadedBytes = kOutputs == Outputs::kNone ? kStageBytes - kK : kStageBytes;

  unsigned char stages[kStages][kStageBytes];
  unsigned char scores[2][kSubtileBytes];
  unsigned char outputs[2][kSubtileBytes];
  ChunkInfo info[kStages];
  float x_dots[2][4][64];
  float state_dots[4];
  MBarrier full[kStages], empty[kStages], scores_full[2], scores_empty[2];
};

struct Block {
  int slab, head, first, count;
};

struct ScanMaps {
  CUtensorMap q, k, v, x, out;
};

// ---- loads

/// One warp, two tokens a lane. Tokens behind the chunk's end write nothing into the state.
__device__ __forceinline__ void write_decays(const ScanParams& p, const ScanChunk& chunk, float2 log_decay,
                                             ChunkInfo& info) {
  const int lane = threadIdx.x % 32;
  const float g0 = fmaxf(log_decay.x, kSmallestLog) * kLog2E, g1 = fmaxf(log_decay.y, kSmallestLog) * kLog2E;
  float sum = g0 + g1;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const float before = __shfl_up_sync(0xffffffffu, sum, offset);
    if (lane >= offset) sum += before;
  }
  const float total = __shfl_sync(0xffffffffu, sum, 31);
  float before = __shfl_up_sync(0xffffffffu, sum, 1);
  if (lane == 0) before = 0;
  const float G0 = before + g0, G1 = sum;
  const float2 decayed{fast_exp2(G0), fast_exp2(G1)}, left{fast_exp2(total - G0), fast_exp2(total - G1)};
  const float2 from = p.backward_in_time ? left : decayed, to = p.backward_in_time ? decayed : left;
  const float weight0 = 2 * lane < chunk.length ? p.write_scale : 0.f,
              weight1 = 2 * lane + 1 < chunk.length ? p.write_scale : 0.f;
  reinterpret_cast<float2*>(info.log_sums)[lane] = {G0, G1};
  reinterpret_cast<float2*>(info.from)[lane] = {p.read_scale * from.x, p.read_scale * from.y};
  reinterpret_cast<float2*>(info.to)[lane] = {weight0 * to.x, weight1 * to.y};
  if (lane == 0) {
    info.total = fast_exp2(total);
    info.log_total = total;
    info.chunk = chunk;
  }
}

__device__ __forceinline__ float2 load_log_decays(const ScanParams& p, const ScanChunk& chunk, int head) {
  const int token = threadIdx.x % 32 * 2;
  float2 g{0, 0};
  if (p.log_decay) {
    const float* row = p.log_decay + (int64_t(chunk.begin) + token) * p.log_stride + head;
    if (token < chunk.length) g.x = row[0];
    if (token + 1 < chunk.length) g.y = row[p.log_stride];
  } else if (p.head_log_decay) {
    const float constant = p.head_log_decay[head];
    g = {token < chunk.length ? constant : 0.f, token + 1 < chunk.length ? constant : 0.f};
  }
  return g;
}

/// One thread: the tiles of all chunks.
template <int DK, Outputs kOutputs>
__device__ __forceinline__ void load_tiles(const ScanParams& p, const ScanMaps& maps, const Block& b,
                                           Shared<DK, kOutputs>& s) {
  using S = Shared<DK, kOutputs>;
  const int q_head = b.head / p.q.group, k_head = b.head / p.k.group, v_head = b.head / p.v.group,
            x_head = b.head / p.x.group;
  RingPosition<S::kStages> ring;
  int next = p.chunks[b.first].begin;
  for (int i = 0; i < b.count; ++i) {
    const int begin = next;
    if (i + 1 < b.count) next = p.chunks[b.first + i + 1].begin;
    s.empty[ring.stage].wait(ring.parity ^ 1);
    MBarrier& full = s.full[ring.stage];
    unsigned char* stage = s.stages[ring.stage];
    full.arrive_expecting(S::kLoadedBytes);
#pragma unroll
    for (int t = 0; t < S::kSubtiles; ++t) {
      if (kOutputs != Outputs::kNone)
        load_box(stage + S::kQ + t * kSubtileBytes, maps.q, full, t * 64, q_head, begin, 0);
      load_box(stage + S::kK + t * kSubtileBytes, maps.k, full, t * 64, k_head, begin, 0);
    }
    load_box(stage + S::kV, maps.v, full, b.slab * 64, v_head, begin, 0);
    if (S::kDots) load_box(stage + S::kX, maps.x, full, b.slab * 64, x_head, begin, 0);
    ring.advance();
  }
}

/// One warp: the decays of all chunks.
template <int DK, Outputs kOutputs>
__device__ __forceinline__ void load_decays(const ScanParams& p, const Block& b, Shared<DK, kOutputs>& s) {
  RingPosition<Shared<DK, kOutputs>::kStages> ring;
  // Two chunks ahead the chunk is loaded, one ahead its decays.
  const ScanChunk* chunks = p.chunks + b.first;
  ScanChunk next = chunks[0], after = chunks[min(1, b.count - 1)];
  float2 next_decays = load_log_decays(p, next, b.head);
  for (int i = 0; i < b.count; ++i) {
    const ScanChunk chunk = next;
    const float2 decays = next_decays;
    next = after;
    after = chunks[min(i + 2, b.count - 1)];
    next_decays = load_log_decays(p, next, b.head);
    s.empty[ring.stage].wait(ring.parity ^ 1);
    write_decays(p, chunk, decays, s.info[ring.stage]);
    __syncwarp();
    if (threadIdx.x % 32 == 0) s.full[ring.stage].arrive();
    ring.advance();
  }
}

// ---- scores

template <int DK, Outputs kOutputs>
__device__ __forceinline__ void make_scores(const ScanParams& p, const Block& b, Shared<DK, kOutputs>& s) {
  using S = Shared<DK, kOutputs>;
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int row = warp * 16 + g;
  const float scale = p.read_scale * p.write_scale;
  RingPosition<S::kStages> ring;
  RingPosition<2> buffers;
  for (int i = 0; i < b.count; ++i) {
    s.full[ring.stage].wait(ring.parity);
    const uint32_t stage = shared_address(s.stages[ring.stage]);
    const float* sums = s.info[ring.stage].log_sums;
    float score[32];
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < DK; k += 16)
      wgmma<Major::kK>(score, k_major(stage + S::kQ, k), k_major(stage + S::kK, k), k > 0);
    wgmma_commit();
    // The decays of all pairs while the products run; without branches, so that their latencies overlap.
    float decay[32];
    const float row_sums[2] = {sums[row], sums[row + 8]};
    const int length = s.info[ring.stage].chunk.length;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const float2 sum = reinterpret_cast<const float2*>(sums)[n * 4 + t];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int column = n * 8 + t * 2 + e % 2, r = row + e / 2 * 8;
        const bool keep = p.backward_in_time ? column >= r && column < length : column <= r;
        const float difference = fabsf(row_sums[e / 2] - (e % 2 ? sum.y : sum.x));
        decay[4 * n + e] = keep ? scale * fast_exp2(-difference) : 0.f;
      }
    }
    wgmma_wait<0>();
    uint32_t packed[8][2];
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int e = 4 * n + 2 * half;
        packed[n][half] = pack_bf16(score[e] * decay[e], score[e + 1] * decay[e + 1]);
      }
    }
    __syncwarp();
    if (lane == 0) s.empty[ring.stage].arrive();
    ring.advance();

    s.scores_empty[buffers.stage].wait(buffers.parity ^ 1);
    const SwizzledTile<64> tile{reinterpret_cast<bf16*>(s.scores[buffers.stage])};
#pragma unroll
    for (int n = 0; n < 8; n += 2) {
      const uint32_t address = shared_address(tile.piece(warp * 16 + lane % 16, n * 8 + lane / 16 * 8));
      stmatrix_x4(address, packed[n][0], packed[n][1], packed[n + 1][0], packed[n + 1][1]);
    }
    fence_async_proxy();
    s.scores_full[buffers.stage].arrive();
    buffers.advance();
  }
}

// ---- states

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
  named_barrier<kGroup>(2);
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
    for (int k = 0; k < kStep; ++k) wgmma<Major::kK>(out, a[k], k_major(q, (first + k) * 16), first + k > 0);
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
                        mn_major(keys + part * (State<DK>::kWidth / 64) * kSubtileBytes, k * 16), 1);
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
  for (int k = 0; k < 4; ++k) wgmma<Major::kK>(out, v[k], k_major(scores, k * 16), 1);
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

template <int DK, Outputs kOutputs>
__device__ __forceinline__ void advance_states(const ScanParams& p, const ScanMaps& maps, const Block& b,
                                               Shared<DK, kOutputs>& s) {
  using S = Shared<DK, kOutputs>;
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  constexpr bool kOut = kOutputs != Outputs::kNone, kDots = kOutputs == Outputs::kOutAndDots;
  State<DK> state;
  state.zero();
  float log_sum = 0;
  RingPosition<S::kStages> ring;
  RingPosition<2> buffers;
  for (int i = 0; i < b.count; ++i) {
    s.full[ring.stage].wait(ring.parity);
    const unsigned char* stage = s.stages[ring.stage];
    const ChunkInfo& info = s.info[ring.stage];
    const ScanChunk chunk = info.chunk;
    if (chunk.start != ScanStart::kGoOn) log_sum = 0;
    log_sum += info.log_total;
    start_state<DK>(p, b, chunk, state);
    if (chunk.saved_slot >= 0 && p.saved_dots) write_state_dot(p, b, chunk.saved_slot, state, s);

    float out[32];
    uint32_t v[4][4], scaled[4][4], x[4][4];
    // No branch between here and the end of the products: ptxas would run them one by one.
    if constexpr (kOut) {
      s.scores_full[buffers.stage].wait(buffers.parity);
      start_reads<DK>(state, info.total, shared_address(stage + S::kQ), out);
    } else {
      state.scale(info.total);
    }
    load_columns(stage + S::kV, v);
    scale_tokens(v, info.to, scaled);
    start_update<DK>(state, scaled, shared_address(stage + S::kK));
    if constexpr (kOut) {
      wgmma_wait<1>();
      scale_outputs(info.from, out);
      start_scores(v, shared_address(s.scores[buffers.stage]), out);
      if constexpr (kDots) load_columns(stage + S::kX, x);
    }
    wgmma_wait<0>();
    __syncwarp();
    if (lane == 0) {
      s.empty[ring.stage].arrive();
      if constexpr (kOut) s.scores_empty[buffers.stage].arrive();
    }
    ring.advance();
    keep_state<DK>(p, b, chunk, log_sum, state);
    if constexpr (kOut) {
      if constexpr (kDots) write_x_dots(out, x, s.x_dots[buffers.stage][warp]);
      stage_outputs(out, s.outputs[buffers.stage]);
      // One barrier a chunk: who writes a buffer again has passed the barrier of the chunk between, before
      // which the copy engine had read it.
      fence_async_proxy();
      if (threadIdx.x % kGroup == 0) store_wait_read();
      named_barrier<kGroup>(1);
      store_outputs(p, maps, b, chunk, s.outputs[buffers.stage]);
      if constexpr (kDots) store_x_dots(p, b, chunk, s.x_dots[buffers.stage]);
      buffers.advance();
    }
  }
  if (kOut && threadIdx.x % kGroup == 0) store_wait();
}

template <int DK, Outputs kOutputs>
__global__ void __launch_bounds__(kThreads, 1)
    state_scan_kernel(const __grid_constant__ ScanParams p, const __grid_constant__ ScanMaps maps) {
  extern __shared__ unsigned char raw[];
  using S = Shared<DK, kOutputs>;
  S& s = *reinterpret_cast<S*>((reinterpret_cast<uintptr_t>(raw) + 1023) / 1024 * 1024);
  const int unit = blockIdx.x % (p.slabs * p.heads);
  const ScanRun run = p.runs[blockIdx.x / (p.slabs * p.heads)];
  const Block b{unit % p.slabs, unit / p.slabs, run.first, run.count};
  constexpr bool kOut = kOutputs != Outputs::kNone;
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kStages; ++i) {
      s.full[i].init(2);
      s.empty[i].init(kOut ? 8 : 4);
    }
    for (int i = 0; i < 2; ++i) {
      s.scores_full[i].init(kGroup);
      s.scores_empty[i].init(4);
    }
    fence_barrier_init();
  }
  __syncthreads();
  const int group = threadIdx.x / kGroup, warp = threadIdx.x / 32;
  if (threadIdx.x == 0) {
    prefetch_map(maps.k);
    prefetch_map(maps.v);
    if (kOut) prefetch_map(maps.q);
  }
  if (group == 0) {
    release_registers<104>();
    if (threadIdx.x == 0) load_tiles<DK, kOutputs>(p, maps, b, s);
    if (warp == 1) load_decays<DK, kOutputs>(p, b, s);
  } else if (group == 1) {
    release_registers<136>();
    if constexpr (kOut) make_scores<DK, kOutputs>(p, b, s);
  } else {
    take_registers<240>();
    advance_states<DK, kOutputs>(p, maps, b, s);
  }
}

inline CUtensorMap map_of(const ScanParams& p, const ScanOperand& x, int width) {
  return head_rows_map(x.data, x.stride, 1, int(p.tokens), p.heads / x.group, width, kScanChunk);
}

template <int DK, Outputs kOutputs>
void launch(const ScanParams& p, cudaStream_t stream) {
  constexpr int kBytes = sizeof(Shared<DK, kOutputs>) + 1024;
  static_assert(kBytes <= 227 * 1024);
  static const bool allowed = (allow_shared_memory(state_scan_kernel<DK, kOutputs>, kBytes), true);
  static_cast<void>(allowed);
  ScanMaps maps{};
  if (kOutputs != Outputs::kNone) {
    maps.q = map_of(p, p.q, DK);
    maps.out = map_of(p, {p.out, int64_t(p.heads) * p.DV, 1}, p.DV);
  }
  maps.k = map_of(p, p.k, DK);
  maps.v = map_of(p, p.v, p.DV);
  if (kOutputs == Outputs::kOutAndDots) maps.x = map_of(p, p.x, p.DV);
  const int64_t blocks = int64_t(p.num_runs) * p.heads * p.slabs;
  state_scan_kernel<DK, kOutputs><<<unsigned(blocks), kThreads, kBytes, stream>>>(p, maps);
  check_launch("state_scan");
}

template <int DK>
void launch(const ScanParams& params, cudaStream_t stream) {
  if (!params.out) {
    launch<DK, Outputs::kNone>(params, stream);
  } else if (!params.x.data) {
    launch<DK, Outputs::kOut>(params, stream);
  } else {
    launch<DK, Outputs::kOutAndDots>(params, stream);
  }
}

}  // namespace spanwise::cuda::scan
