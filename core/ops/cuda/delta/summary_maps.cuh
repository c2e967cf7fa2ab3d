#pragma once
// Forward summaries for K up to 128: both M and B from one walk, from the unit's end to its start. With dS =
// I after the unit, the retreat without outputs leaves Mᵀ before it, and the gradient of v that it passes,
// the keys that tokens really write, k̃ = β∘Z, gives B = Σ k̃ vᵀ, which no later chunk waits for:
//
//   Zᵀ = (e^{Ḡ−G}∘(Dᵀ Kᵀ)) Θ    Dᵀ ← e^Ḡ Dᵀ − (β e^G∘Zᵀ) K    B += (β∘Z)ᵀ V
//
// A warpgroup for every 64 columns of Dᵀ, one for B, one that copies.

#include "core/ops/cuda/delta/summary.cuh"

namespace spanwise::cuda::delta {

template <int kK, int kCols>
struct MapStage : Factors {
  bf16 k[kChunk * kK];
  bf16 theta[kImageElems];
  bf16 values[kChunk * kCols];
};

template <int kK, int kCols>
struct MapPipeline {
  static constexpr int kChains = kK / 64, kThreads = (kChains + 2) * kWarpgroup, kStages = 4;
  MapStage<kK, kCols> stages[kStages];
  bf16 keys[2][kChains][kImageElems];  ///< k̃, [token, column of K]
  MBarrier full[kStages], empty[kStages];
  MBarrier keys_full[2], keys_empty[2];
  int num_chunks;
  bool passes;  ///< all chunks of the unit are visited, M is not zero
};

struct MapBlock {
  SummaryUnit unit;
  int head, column;  ///< first column of V
};

/// copy_rows() of a warpgroup with few registers.
template <int kCols>
__device__ __forceinline__ void copy_rows_rolled(bf16* images, const Rows& rows, const Chunk& chunk,
                                                 int first_col) {
  constexpr int kPieces = kCols / 8, kStep = kWarpgroup / kPieces;
  const int first = threadIdx.x % kWarpgroup / kPieces, col = threadIdx.x % kPieces * 8;
  const bf16* from = rows.data + (chunk.begin + first) * rows.stride + first_col + col;
#pragma unroll 2
  for (int row = first; row < kChunk; row += kStep) {
    const bool inside = row < chunk.length;
    copy_async_16(images + images_piece(row, col), inside ? from : rows.data, inside);
    from += kStep * rows.stride;
  }
}

template <int kK, int kCols>
__device__ __forceinline__ void produce_maps(MapPipeline<kK, kCols>& smem, const SummaryArgs& args,
                                             const MapBlock& b) {
  const Problem& p = args.problem;
  const int thread = threadIdx.x % kWarpgroup, key_head = b.head * p.H / p.HV, count = smem.num_chunks;
  const auto load = [&](int s, int index, const Chunk& chunk) {
    MapStage<kK, kCols>& stage = smem.stages[s];
    if (thread == 0) {
      smem.full[s].expect(kImageBytes + kFactorBytes);
      const int64_t at = int64_t(index) * p.HV + b.head;
      bulk_load(stage.theta, args.theta + at * kImageElems, kImageBytes, &smem.full[s]);
      bulk_load(stage.factors, args.factors + at * kFactorElems, kFactorBytes, &smem.full[s]);
      smem.full[s].copies_started();
    }
    copy_rows_rolled<kK>(stage.k, p.k, chunk, key_head * kK);
    copy_rows_rolled<kCols>(stage.values, args.values, chunk, b.head * p.V + b.column);
  };
  produce_stages(
      smem.full, smem.empty, p.chunks, [&] { return count; }, [&](int n) { return b.unit.last - 1 - n; },
      load);
}

/// One of the warpgroups of Dᵀ, with columns 64·chain... of D.
template <int kK, int kCols>
__device__ __forceinline__ void retreat_identity(MapPipeline<kK, kCols>& smem, const SummaryArgs& args,
                                                 const MapBlock& b, int chain) {
  using S = MapPipeline<kK, kCols>;
  constexpr int kSteps = kK / 16;
  const int warp = threadIdx.x / 32 % 4;
  State<kK> state;
  state.for_each(chain * 64, [&](float& c, int k, int v) { c = float(k == v); });
  for (int n = 0; n < smem.num_chunks; ++n) {
    const int s = n % S::kStages;
    const MapStage<kK, kCols>& stage = smem.stages[s];
    smem.full[s].wait(n / S::kStages & 1);
    uint32_t a[4][4];
    {
      float x[32] = {};
#pragma unroll
      for (int first = 0; first < kSteps; first += 4) {
#pragma unroll
        for (int i = 0; i < 4; ++i) state.fragment(a[i], first + i);
        pin_registers(x);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < 4; ++i) wgmma_nk(x, a[i], shared_address(stage.k), 16 * (first + i));
        wgmma_commit();
        wgmma_wait<0>();
      }
      pin_registers(x);
      scaled_fragments(a, x, stage.to_end());
    }
    float z[32] = {};
    pin_registers(z);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) wgmma_kn(z, a[i], shared_address(stage.theta), 16 * i);
    wgmma_commit();
    state.scale(stage.total());
    wgmma_wait<0>();
    pin_registers(z);
    uint32_t keys[4][4];
    scaled_fragments(keys, z, stage.beta());
    key_factors(stage, z, a);
    state.pin();
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) state.add_product(a[i], shared_address(stage.k), 16 * i);
    wgmma_commit();
    const int turn = n % 2;
    if (n >= 2) smem.keys_empty[turn].wait((n / 2 - 1) & 1);
#pragma unroll
    for (int i = 0; i < 4; ++i) store_a_image_trans(keys[i], smem.keys[turn][chain], 16 * warp, 16 * i);
    fence_async_proxy();
    smem.keys_full[turn].arrive();
    wgmma_wait<0>();
    state.pin();
    __syncwarp();
    if (arrives_for_warp(threadIdx.x % 32)) smem.empty[s].arrive();
  }
  if (!smem.passes || !b.unit.transition || b.column > 0) return;
  // D[k][v] = Mᵀ[k][v]
  float* m = args.transitions + (int64_t(b.unit.index) * args.problem.HV + b.head) * kK * kK;
  state.for_each(chain * 64, [&](float& c, int k, int v) { m[int64_t(v) * kK + k] = c; });
}

/// The warpgroup of B.
template <int kK, int kCols>
__device__ __forceinline__ void sum_writes(MapPipeline<kK, kCols>& smem, const SummaryArgs& args,
                                           const MapBlock& b) {
  using S = MapPipeline<kK, kCols>;
  float sums[S::kChains][kCols / 2] = {};
  for (int n = 0; n < smem.num_chunks; ++n) {
    const int s = n % S::kStages, turn = n % 2;
    smem.full[s].wait(n / S::kStages & 1);
    smem.keys_full[turn].wait(n / 2 & 1);
#pragma unroll
    for (int i = 0; i < S::kChains; ++i) pin_registers(sums[i]);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kChunk; k += 16) {
#pragma unroll
      for (int i = 0; i < S::kChains; ++i)
        wgmma<Major::kMN, Major::kMN>(sums[i], rows_descriptor(shared_address(smem.keys[turn][i]), k),
                                      rows_descriptor(shared_address(smem.stages[s].values), k), 1);
    }
    wgmma_commit();
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < S::kChains; ++i) pin_registers(sums[i]);
    __syncwarp();
    if (arrives_for_warp(threadIdx.x % 32)) {
      smem.keys_empty[turn].arrive();
      smem.empty[s].arrive();
    }
  }
  const Problem& p = args.problem;
  const int row = threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4, column = b.column + threadIdx.x % 4 * 2;
  float* to = args.states + (int64_t(b.unit.index) * p.HV + b.head) * kK * p.V + column;
#pragma unroll
  for (int i = 0; i < S::kChains; ++i) {
#pragma unroll
    for (int e = 0; e < kCols / 2; e += 2)
      *reinterpret_cast<float2*>(to + int64_t(64 * i + row + e / 2 % 2 * 8) * p.V + e / 4 * 8) =
          float2{sums[i][e], sums[i][e + 1]};
  }
}

template <int kK, int kCols>
__global__ void __launch_bounds__(MapPipeline<kK, kCols>::kThreads, 1)
    summarize_maps_kernel(const __grid_constant__ SummaryArgs args) {
  using S = MapPipeline<kK, kCols>;
  extern __shared__ __align__(1024) unsigned char smem_bytes[];
  S& smem = *reinterpret_cast<S*>(smem_bytes);
  const int slabs = args.problem.V / kCols, rest = blockIdx.x / slabs;
  const MapBlock b{args.units[rest / args.problem.HV], rest % args.problem.HV,
                   int(blockIdx.x % slabs) * kCols};
  if (!b.unit.state) return;
  if (threadIdx.x < 32) {
    const int remembered = count_remembered(args, b.unit, b.head);
    if (threadIdx.x == 0) {
      smem.passes = remembered < 0;
      smem.num_chunks = remembered < 0 ? b.unit.last - b.unit.first : remembered;
      if (args.passes && b.unit.transition)
        args.passes[int64_t(b.unit.index) * args.problem.HV + b.head] = remembered < 0;
      for (int s = 0; s < S::kStages; ++s) {
        smem.full[s].init(kWarpgroup + 1);
        smem.empty[s].init((S::kChains + 1) * kWarpgroup / 32 * kWarpArrivals);
      }
      for (int i = 0; i < 2; ++i) {
        smem.keys_full[i].init(S::kChains * kWarpgroup);
        smem.keys_empty[i].init(kWarpgroup / 32 * kWarpArrivals);
      }
      fence_barrier_init();
    }
  }
  __syncthreads();
  const int group = threadIdx.x / kWarpgroup;
  constexpr bool kShare = S::kChains == 2;  // 512 threads with 128 registers
  if (group == 0) {
    if constexpr (kShare) registers_decrease<56>();
    produce_maps(smem, args, b);
  } else if (group == 1) {
    if constexpr (kShare) registers_increase<160>();
    sum_writes(smem, args, b);
  } else {
    if constexpr (kShare) registers_increase<144>();
    retreat_identity(smem, args, b, group - 2);
  }
}

template <int kK, int kCols>
void launch_summarize_maps(cudaStream_t stream, const SummaryArgs& args) {
  using S = MapPipeline<kK, kCols>;
  constexpr int kBytes = sizeof(S);
  static_assert(kBytes <= 227 * 1024);
  const Problem& p = args.problem;
  allow_shared_memory(summarize_maps_kernel<kK, kCols>, kBytes);
  summarize_maps_kernel<kK, kCols>
      <<<unsigned(int64_t(args.num_units) * p.HV * (p.V / kCols)), S::kThreads, kBytes, stream>>>(args);
  check_launch("gated_delta_summarize_maps");
}

template <int kK>
void launch_summarize_of(cudaStream_t stream, const SummaryArgs& args) {
  if (args.direction == Direction::kBackward) {
    launch_summarize_columns<kK, Direction::kBackward>(stream, args);
  } else if constexpr (kK > 128) {
    launch_summarize_columns<kK, Direction::kForward>(stream, args);
  } else if (args.problem.V == 64) {
    launch_summarize_maps<kK, 64>(stream, args);
  } else {
    launch_summarize_maps<kK, 128>(stream, args);
  }
}

}  // namespace spanwise::cuda::delta
