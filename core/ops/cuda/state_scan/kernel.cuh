#pragma once
// The bf16 kernel of scan.h. Three warpgroups a block, tied by barriers in shared memory:
//
//   loads    Q, K [64, DK] and 64 columns of V (and x) by TMA into a ring of stages; decays of the chunk
//   scores   P = s (QKᵀ)∘E∘M [64, 64], bf16, to one of two buffers
//   states   Xᵀ [64, DK] fp32 in registers; Oᵀ = from∘(Xᵀ Qᵀ) + Vᵀ Pᵀ, Xᵀ ← e^Ḡ Xᵀ + (to∘V)ᵀ K, with Xᵀ
//            and Vᵀ as register operands, so that a state never passes through shared memory
//
// The tensor cores work for `scores` while `states` rounds and stores outputs. Rows behind a chunk's end hold
// other segments' tokens: they get no weight, and keys and values there are set to zero, for zero times
// another segment's NaN is NaN.

#include "core/ops/cuda/state_scan/loads.cuh"
#include "core/ops/cuda/state_scan/state.cuh"

namespace spanwise::cuda::scan {

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
      wgmma<Major::kK, Major::kK>(score, columns_descriptor(stage + S::kQ, k),
                                  columns_descriptor(stage + S::kK, k), k > 0);
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
    if (arrives_for_warp(lane)) s.empty[ring.stage].arrive();
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
    if (arrives_for_warp(lane)) {
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
      named_barrier_sync(1, kGroup);
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
  Block b{unit % p.slabs, unit / p.slabs, run.first, run.count};
  constexpr bool kOut = kOutputs != Outputs::kNone;
  if (!kOut && run.one_piece) {
    b.count = count_remembered(p, b, s.state_dots);
    b.first += run.count - b.count;
  }
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kStages; ++i) {
      s.full[i].init(1 + kWarpArrivals);
      s.landed[i].init(1);
      s.empty[i].init((kOut ? 8 : 4) * kWarpArrivals);
    }
    for (int i = 0; i < 2; ++i) {
      s.scores_full[i].init(kGroup);
      s.scores_empty[i].init(4 * kWarpArrivals);
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
    registers_decrease<104>();
    if (threadIdx.x == 0) load_tiles<DK, kOutputs>(p, maps, b, s);
    if (warp == 1) load_decays<DK, kOutputs>(p, b, s);
  } else if (group == 1) {
    registers_decrease<136>();
    if constexpr (kOut) make_scores<DK, kOutputs>(p, b, s);
  } else {
    registers_increase<240>();
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
