#pragma once
// A block of kernel.cuh: its shared memory, and what its first warpgroup brings there.

#include "core/ops/cuda/common/activations.cuh"
#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/common/mbarrier.cuh"
#include "core/ops/cuda/common/tma.cuh"
#include "core/ops/cuda/common/vector.cuh"
#include "core/ops/cuda/common/wgmma_images.cuh"
#include "core/ops/cuda/state_scan/device.h"

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

constexpr int kDecayBatch = 48;  // chunks whose decays a block looks at together: four a warp

template <int DK, Outputs kOutputs>
struct Shared {
  static constexpr int kImages = DK / 64;
  static constexpr bool kDots = kOutputs == Outputs::kOutAndDots;
  static constexpr int kStages = DK == 64 ? (kDots ? 4 : 6) : DK == 128 ? (kDots ? 3 : 4) : 2;
  static constexpr int kQ = 0, kK = kImages * kImageBytes, kV = 2 * kK, kX = kV + kImageBytes;
  static constexpr int kStageBytes = kDots ? kX + kImageBytes : kX;
  static constexpr int kLoadedBytes = kOutputs == Outputs::kNone ? kStageBytes - kK : kStageBytes;

  unsigned char stages[kStages][kStageBytes];
  unsigned char scores[2][kImageBytes];
  unsigned char outputs[2][kImageBytes];
  ChunkInfo info[kStages];
  float x_dots[2][4][64];
  float state_dots[kDecayBatch];
  /// A stage is full when its tiles and decays are there; tiles of short chunks are counted at `landed`.
  MBarrier full[kStages], landed[kStages], empty[kStages], scores_full[2], scores_empty[2];
};

struct Block {
  int slab, head, first, count;
};

struct ScanMaps {
  CUtensorMap q, k, v, x, out;
};

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

/// How many of a run's last chunks leave a trace in the state after it. Those before have decayed below
/// e^-100 of themselves, which is zero in fp32 beside anything, as for kSmallestLog. The whole block;
/// `totals` is shared.
__device__ __forceinline__ int count_remembered(const ScanParams& p, const Block& b,
                                                float (&totals)[kDecayBatch]) {
  constexpr float kForgotten = kSmallestLog * kLog2E;
  if (!p.log_decay) {
    const float g = p.head_log_decay ? fmaxf(p.head_log_decay[b.head], kSmallestLog) * kLog2E : 0.f;
    if (!(g < 0)) return b.count;
    // One more, for a segment's last chunk may be short.
    const float chunks = ceilf(kForgotten / (kScanChunk * g)) + 1;
    return chunks < float(b.count) ? int(chunks) : b.count;
  }
  float log = 0;
  for (int begin = 0; begin < b.count; begin += kDecayBatch) {
    const int first = threadIdx.x / 32 * 4;
    float2 g[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int n = begin + first + i;
      g[i] = n < b.count ? load_log_decays(p, p.chunks[b.first + b.count - 1 - n], b.head) : float2{0, 0};
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float total = warp_sum((fmaxf(g[i].x, kSmallestLog) + fmaxf(g[i].y, kSmallestLog)) * kLog2E);
      if (threadIdx.x % 32 == 0) totals[first + i] = total;
    }
    __syncthreads();
    for (int i = 0; i < kDecayBatch; ++i) {
      log += totals[i];
      if (log <= kForgotten) return min(begin + i + 1, b.count);
    }
    __syncthreads();
  }
  return b.count;
}

/// One thread: the tiles of all chunks.
template <int DK, Outputs kOutputs>
__device__ __forceinline__ void load_tiles(const ScanParams& p, const ScanMaps& maps, const Block& b,
                                           Shared<DK, kOutputs>& s) {
  using S = Shared<DK, kOutputs>;
  const int q_head = b.head / p.q.group, k_head = b.head / p.k.group, v_head = b.head / p.v.group,
            x_head = b.head / p.x.group;
  RingPosition<S::kStages> ring;
  int next = p.chunks[b.first].begin, next_length = p.chunks[b.first].length;
  for (int i = 0; i < b.count; ++i) {
    const int begin = next, length = next_length;
    if (i + 1 < b.count) {
      next = p.chunks[b.first + i + 1].begin;
      next_length = p.chunks[b.first + i + 1].length;
    }
    s.empty[ring.stage].wait(ring.parity ^ 1);
    const bool whole = length == kScanChunk;
    MBarrier& loaded = whole ? s.full[ring.stage] : s.landed[ring.stage];
    unsigned char* stage = s.stages[ring.stage];
    if (!whole) s.full[ring.stage].arrive();
    loaded.arrive_expecting(S::kLoadedBytes);
#pragma unroll
    for (int t = 0; t < S::kImages; ++t) {
      if (kOutputs != Outputs::kNone)
        load_box(stage + S::kQ + t * kImageBytes, maps.q, loaded, t * 64, q_head, begin, 0);
      load_box(stage + S::kK + t * kImageBytes, maps.k, loaded, t * 64, k_head, begin, 0);
    }
    load_box(stage + S::kV, maps.v, loaded, b.slab * 64, v_head, begin, 0);
    if (S::kDots) load_box(stage + S::kX, maps.x, loaded, b.slab * 64, x_head, begin, 0);
    ring.advance();
  }
}

/// One warp: zeros in the rows of keys and values behind a short chunk's end.
template <int DK, Outputs kOutputs>
__device__ __forceinline__ void clear_rows_behind(int length, unsigned char* stage) {
  using S = Shared<DK, kOutputs>;
  static_assert(S::kV == S::kK + S::kImages * kImageBytes);
#pragma unroll
  for (int image = 0; image <= S::kImages; ++image) {
    uint4* rows = reinterpret_cast<uint4*>(stage + S::kK + image * kImageBytes);
    for (int i = length * 8 + int(threadIdx.x) % 32; i < kScanChunk * 8; i += 32) rows[i] = uint4{};
  }
  fence_async_proxy();
}

/// One warp: the decays of all chunks.
template <int DK, Outputs kOutputs>
__device__ __forceinline__ void load_decays(const ScanParams& p, const Block& b, Shared<DK, kOutputs>& s) {
  RingPosition<Shared<DK, kOutputs>::kStages> ring;
  // Two chunks ahead the chunk is loaded, one ahead its decays.
  const ScanChunk* chunks = p.chunks + b.first;
  ScanChunk next = chunks[0], after = chunks[min(1, b.count - 1)];
  float2 next_decays = load_log_decays(p, next, b.head);
  uint32_t landed_parities = 0;  // bit by stage: `landed` has as many phases as the stage had short chunks
  for (int i = 0; i < b.count; ++i) {
    const ScanChunk chunk = next;
    const float2 decays = next_decays;
    next = after;
    after = chunks[min(i + 2, b.count - 1)];
    next_decays = load_log_decays(p, next, b.head);
    s.empty[ring.stage].wait(ring.parity ^ 1);
    write_decays(p, chunk, decays, s.info[ring.stage]);
    if (chunk.length < kScanChunk) {
      s.landed[ring.stage].wait(landed_parities >> ring.stage & 1);
      landed_parities ^= 1u << ring.stage;
      clear_rows_behind<DK, kOutputs>(chunk.length, s.stages[ring.stage]);
    }
    __syncwarp();
    if (arrives_for_warp(threadIdx.x % 32)) s.full[ring.stage].arrive();
    ring.advance();
  }
}

}  // namespace spanwise::cuda::scan
