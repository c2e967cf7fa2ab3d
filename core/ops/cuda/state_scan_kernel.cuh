#pragma once
// The bf16 kernel of state_scan.h. Three warpgroups a block, tied by barriers in shared memory:
//
//   loads    cp.async of Q, K [64, DK] and 64 columns of V (and x) into a ring of stages; decays of the chunk
//   scores   P = s (QKᵀ)∘E∘M [64, 64], bf16, to one of two buffers
//   states   Xᵀ [64, DK] fp32 in registers; Oᵀ = from∘(Xᵀ Qᵀ) + Vᵀ Pᵀ, Xᵀ ← e^Ḡ Xᵀ + (to∘V)ᵀ K, with Xᵀ
//            and Vᵀ as register operands, so that a state never passes through shared memory
//
// The tensor cores work for `scores` while `states` rounds and stores outputs. Rows past a chunk's end are
// zero in shared memory.

#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/common/vector.cuh"
#include "core/ops/cuda/common/wgmma_subtiles.cuh"
#include "core/ops/cuda/state_scan_device.h"

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

template <int DK>
struct Shared {
  static constexpr int kSubtiles = DK / 64;
  static constexpr int kStages = DK == 64 ? 4 : DK == 128 ? 3 : 2;
  static constexpr int kQ = 0, kK = kSubtiles * kSubtileBytes, kV = 2 * kK, kX = kV + kSubtileBytes;
  static constexpr int kStageBytes = kX + kSubtileBytes;

  unsigned char stages[kStages][kStageBytes];
  unsigned char scores[2][kSubtileBytes];
  unsigned char outputs[2][kSubtileBytes];
  ChunkInfo info[kStages];
  float x_dots[2][4][64];
  float state_dots[4];
  uint64_t full[kStages], empty[kStages], scores_full[2], scores_empty[2];
};

/// Position in a ring of kSize slots. The consumer's first wait on a slot is for parity 0.
template <int kSize>
struct Ring {
  int slot = 0, parity = 0;
  __device__ __forceinline__ void advance() {
    if (++slot == kSize) {
      slot = 0;
      parity ^= 1;
    }
  }
};

struct Block {
  int slab, head, first, count;
};

/// What a launch writes beside states.
enum class Outputs { kNone, kOut, kOutAndDots };

// ---- loads

/// 64 rows of 64 columns; this thread's part. Rows past `length` are zero.
__device__ __forceinline__ void copy_subtile(uint32_t to, const bf16* from, int64_t stride, int length) {
  const int piece = threadIdx.x % 8, first = threadIdx.x % kGroup / 8;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = first + 16 * i;
    const bool valid = row < length;
    const bf16* source = from + (valid ? row * stride : 0) + piece * 8;
    asm volatile(
        "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + row * 128 + (piece ^ row % 8) * 16),
        "l"(source), "r"(valid ? 16 : 0)
        : "memory");
  }
}

__device__ __forceinline__ const bf16* rows_of(const ScanOperand& x, int begin, int head, int width,
                                               int column) {
  return static_cast<const bf16*>(x.data) + begin * x.stride + head / x.group * width + column;
}

/// One warp, two tokens a lane. Writes everything in `info` but the chunk.
__device__ __forceinline__ void write_decays(const ScanParams& p, float2 log_decay, ChunkInfo& info) {
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
  reinterpret_cast<float2*>(info.log_sums)[lane] = {G0, G1};
  reinterpret_cast<float2*>(info.from)[lane] = {p.read_scale * from.x, p.read_scale * from.y};
  reinterpret_cast<float2*>(info.to)[lane] = {p.write_scale * to.x, p.write_scale * to.y};
  if (lane == 0) {
    info.total = fast_exp2(total);
    info.log_total = total;
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

template <int DK, Outputs kOutputs>
__device__ __forceinline__ void load_chunks(const ScanParams& p, const Block& b, Shared<DK>& s) {
  using S = Shared<DK>;
  // Copies of a chunk are announced when those of the next kLag are on their way.
  constexpr int kLag = S::kStages - 2;
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const auto announce = [&](int slot) {
    async_proxy_fence();
    SharedBarrier{&s.full[slot]}.arrive();
  };
  Ring<S::kStages> ring, announced;
  ScanChunk next = p.chunks[b.first];
  for (int i = 0; i < b.count; ++i) {
    const ScanChunk chunk = next;
    if (i + 1 < b.count) next = p.chunks[b.first + i + 1];
    float2 log_decays{0, 0};
    if (warp == 0) log_decays = load_log_decays(p, chunk, b.head);
    SharedBarrier{&s.empty[ring.slot]}.wait(ring.parity ^ 1);
    const uint32_t stage = shared_address(s.stages[ring.slot]);
    const bf16 *q = rows_of(p.q, chunk.begin, b.head, DK, 0), *k = rows_of(p.k, chunk.begin, b.head, DK, 0);
#pragma unroll
    for (int t = 0; t < S::kSubtiles; ++t) {
      if (kOutputs != Outputs::kNone)
        copy_subtile(stage + S::kQ + t * kSubtileBytes, q + t * 64, p.q.stride, chunk.length);
      copy_subtile(stage + S::kK + t * kSubtileBytes, k + t * 64, p.k.stride, chunk.length);
    }
    copy_subtile(stage + S::kV, rows_of(p.v, chunk.begin, b.head, p.DV, b.slab * 64), p.v.stride,
                 chunk.length);
    if (kOutputs == Outputs::kOutAndDots)
      copy_subtile(stage + S::kX, rows_of(p.x, chunk.begin, b.head, p.DV, b.slab * 64), p.x.stride,
                   chunk.length);
    copy_async_commit();
    if (warp == 0) {
      write_decays(p, log_decays, s.info[ring.slot]);
      if (lane == 0) s.info[ring.slot].chunk = chunk;
    }
    ring.advance();
    if (i >= kLag) {
      copy_async_wait<kLag>();
      announce(announced.slot);
      announced.advance();
    }
  }
  copy_async_wait<0>();
  for (int i = max(0, b.count - kLag); i < b.count; ++i) {
    announce(announced.slot);
    announced.advance();
  }
}

// ---- scores

template <int DK>
__device__ __forceinline__ void make_scores(const ScanParams& p, const Block& b, Shared<DK>& s) {
  using S = Shared<DK>;
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int row = warp * 16 + g;
  const float scale = p.read_scale * p.write_scale;
  Ring<S::kStages> ring;
  Ring<2> buffers;
  for (int i = 0; i < b.count; ++i) {
    SharedBarrier{&s.full[ring.slot]}.wait(ring.parity);
    const uint32_t stage = shared_address(s.stages[ring.slot]);
    const float* sums = s.info[ring.slot].log_sums;
    float score[32];
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < DK; k += 16)
      wgmma<Major::kK>(score, k_major(stage + S::kQ, k), k_major(stage + S::kK, k), k > 0);
    wgmma_commit();
    const float row_sums[2] = {sums[row], sums[row + 8]};
    wgmma_wait<0>();
    uint32_t packed[8][2];
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const bool none = p.backward_in_time ? n < 2 * warp : n > 2 * warp + 1;
      packed[n][0] = packed[n][1] = 0;
      if (none) continue;
      const int column = n * 8 + t * 2;
      const float2 sum = reinterpret_cast<const float2*>(sums)[column / 2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int r = row + half * 8;
        const bool keep0 = p.backward_in_time ? column >= r : column <= r,
                   keep1 = p.backward_in_time ? column + 1 >= r : column + 1 <= r;
        const float e0 = scale * fast_exp2(-fabsf(row_sums[half] - sum.x)),
                    e1 = scale * fast_exp2(-fabsf(row_sums[half] - sum.y));
        packed[n][half] = pack_bf16(keep0 ? score[4 * n + 2 * half] * e0 : 0.f,
                                    keep1 ? score[4 * n + 2 * half + 1] * e1 : 0.f);
      }
    }
    __syncwarp();
    if (lane == 0) SharedBarrier{&s.empty[ring.slot]}.arrive();
    ring.advance();

    SharedBarrier{&s.scores_empty[buffers.slot]}.wait(buffers.parity ^ 1);
    const SwizzledTile<64> tile{reinterpret_cast<bf16*>(s.scores[buffers.slot])};
#pragma unroll
    for (int n = 0; n < 8; n += 2) {
      const uint32_t address = shared_address(tile.piece(warp * 16 + lane % 16, n * 8 + lane / 16 * 8));
      stmatrix_x4(address, packed[n][0], packed[n][1], packed[n + 1][0], packed[n + 1][1]);
    }
    async_proxy_fence();
    SharedBarrier{&s.scores_full[buffers.slot]}.arrive();
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

/// ⟨saved, X⟩ over the slab, added in a fixed order.
template <int DK>
__device__ __forceinline__ void write_state_dot(const ScanParams& p, const Block& b, int slot,
                                                State<DK>& state, Shared<DK>& s) {
  const uint4* saved = saved_fragments<DK>(p, b, slot);
  float sum = 0;
#pragma unroll
  for (int k = 0; k < DK / 16; ++k) {
    const uint4 raw = saved[k * kGroup];
    const uint32_t pairs[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = unpack_bf16(pairs[i]);
      sum += pair.x * state.at(2 * k + i / 2, i % 2 * 2) + pair.y * state.at(2 * k + i / 2, i % 2 * 2 + 1);
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

__device__ __forceinline__ void store_outputs(const ScanParams& p, const Block& b, const ScanChunk& chunk,
                                              unsigned char* buffer) {
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
__device__ __forceinline__ void advance_states(const ScanParams& p, const Block& b, Shared<DK>& s) {
  using S = Shared<DK>;
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  constexpr bool kOut = kOutputs != Outputs::kNone, kDots = kOutputs == Outputs::kOutAndDots;
  State<DK> state;
  state.zero();
  float log_sum = 0;
  Ring<S::kStages> ring;
  Ring<2> buffers;
  for (int i = 0; i < b.count; ++i) {
    SharedBarrier{&s.full[ring.slot]}.wait(ring.parity);
    const unsigned char* stage = s.stages[ring.slot];
    const ChunkInfo& info = s.info[ring.slot];
    const ScanChunk chunk = info.chunk;
    if (chunk.start != ScanStart::kGoOn) log_sum = 0;
    log_sum += info.log_total;
    start_state<DK>(p, b, chunk, state);
    if (chunk.saved_slot >= 0 && p.saved_dots) write_state_dot<DK>(p, b, chunk.saved_slot, state, s);

    float out[32];
    uint32_t v[4][4], scaled[4][4], x[4][4];
    // No branch between here and the end of the products: ptxas would run them one by one.
    if constexpr (kOut) {
      SharedBarrier{&s.scores_full[buffers.slot]}.wait(buffers.parity);
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
      start_scores(v, shared_address(s.scores[buffers.slot]), out);
      if constexpr (kDots) load_columns(stage + S::kX, x);
    }
    wgmma_wait<0>();
    __syncwarp();
    if (lane == 0) {
      SharedBarrier{&s.empty[ring.slot]}.arrive();
      if constexpr (kOut) SharedBarrier{&s.scores_empty[buffers.slot]}.arrive();
    }
    ring.advance();
    keep_state<DK>(p, b, chunk, log_sum, state);
    if constexpr (kOut) {
      if constexpr (kDots) write_x_dots(out, x, s.x_dots[buffers.slot][warp]);
      stage_outputs(out, s.outputs[buffers.slot]);
      // One barrier a chunk: who writes a buffer again has passed the barrier of the chunk between.
      named_barrier<kGroup>(1);
      store_outputs(p, b, chunk, s.outputs[buffers.slot]);
      if constexpr (kDots) store_x_dots(p, b, chunk, s.x_dots[buffers.slot]);
      buffers.advance();
    }
  }
}

template <int DK, Outputs kOutputs>
__global__ void __launch_bounds__(kThreads, 1) state_scan_kernel(const __grid_constant__ ScanParams p) {
  extern __shared__ unsigned char raw[];
  Shared<DK>& s = *reinterpret_cast<Shared<DK>*>((reinterpret_cast<uintptr_t>(raw) + 1023) / 1024 * 1024);
  const int unit = blockIdx.x % (p.slabs * p.heads);
  const ScanRun run = p.runs[blockIdx.x / (p.slabs * p.heads)];
  const Block b{unit % p.slabs, unit / p.slabs, run.first, run.count};
  constexpr bool kOut = kOutputs != Outputs::kNone;
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shared<DK>::kStages; ++i) {
      SharedBarrier{&s.full[i]}.init(kGroup);
      SharedBarrier{&s.empty[i]}.init(kOut ? 8 : 4);
    }
    for (int i = 0; i < 2; ++i) {
      SharedBarrier{&s.scores_full[i]}.init(kGroup);
      SharedBarrier{&s.scores_empty[i]}.init(4);
    }
  }
  __syncthreads();
  const int group = threadIdx.x / kGroup;
  if (group == 0) {
    release_registers<120>();
    load_chunks<DK, kOutputs>(p, b, s);
  } else if (group == 1) {
    release_registers<136>();
    if constexpr (kOut) make_scores<DK>(p, b, s);
  } else {
    take_registers<240>();
    advance_states<DK, kOutputs>(p, b, s);
  }
}

template <int DK, Outputs kOutputs>
void launch(const ScanParams& params, cudaStream_t stream) {
  constexpr int kBytes = sizeof(Shared<DK>) + 1024;
  static_assert(kBytes <= 227 * 1024);
  static const bool allowed = (allow_shared_memory(state_scan_kernel<DK, kOutputs>, kBytes), true);
  static_cast<void>(allowed);
  const int64_t blocks = int64_t(params.num_runs) * params.heads * params.slabs;
  state_scan_kernel<DK, kOutputs><<<unsigned(blocks), kThreads, kBytes, stream>>>(params);
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
