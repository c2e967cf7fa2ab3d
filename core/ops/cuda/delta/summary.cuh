#pragma once
// Summaries (SummaryArgs): the recurrences of the scan and the retreat without what they write a chunk. A
// block takes one unit and head and up to kChains blocks of 64 columns, each with a warpgroup of its own: the
// columns are independent, so they share the chunk's operands and fill each other's waits. Columns of M are
// those of a state that starts as the identity, with v = 0.
//
// Tokens whose trace has decayed to nothing when it leaves the unit are not visited: what a state keeps over
// them is below e^-100, which is zero in fp32 beside anything (as in prepare.cu), so the result
// is the same. M itself then is zero. How far back that is, the block finds from the chunks' decays.

#include "core/ops/cuda/delta/retreat.cuh"

namespace spanwise::cuda::delta {

/// log2 e^-100
inline constexpr float kForgotten = -144.27f;

template <int kK>
struct SummaryShape {
  static constexpr int kChains = kK <= 128 ? 2 : 1, kThreads = (1 + kChains) * kWarpgroup;
};

template <int kK>
struct ForwardOperands : Factors {
  bf16 k[kChunk * kK];
  bf16 theta[kImageElems];
  bf16 values[SummaryShape<kK>::kChains][kImageElems];
};
template <int kK>
struct BackwardOperands : ForwardOperands<kK> {
  bf16 q[kChunk * kK];
  bf16 scores[kImageElems];
};

template <int kK, Direction kDirection>
struct SummaryPipeline {
  static constexpr bool kBackward = kDirection == Direction::kBackward;
  static constexpr int kStages = kK <= 128 ? 3 : 2;
  using Operands = std::conditional_t<kBackward, BackwardOperands<kK>, ForwardOperands<kK>>;
  Operands stages[kStages];
  MBarrier full[kStages], empty[kStages];
  int first, last;  ///< the chunks to visit
};

struct SummaryBlock {
  SummaryUnit unit;
  int head;
  bool transition;       ///< columns of M, not of a state
  int slab, num_chains;  ///< the first block of 64 columns, and how many
};

template <int kChains>
__device__ __forceinline__ SummaryBlock summary_block(const SummaryArgs& args) {
  const Problem& p = args.problem;
  const int of_values = (p.V / 64 + kChains - 1) / kChains,
            of_keys = args.transitions ? (p.K / 64 + kChains - 1) / kChains : 0;
  const int index = blockIdx.x % (of_values + of_keys), rest = blockIdx.x / (of_values + of_keys);
  SummaryBlock b;
  b.head = rest % p.HV;
  b.unit = args.units[rest / p.HV];
  b.transition = index >= of_values;
  b.slab = (b.transition ? index - of_values : index) * kChains;
  b.num_chains = min(kChains, (b.transition ? p.K : p.V) / 64 - b.slab);
  return b;
}

/// From the unit's end (backward: its start) the chunks up to the one where decays reach kForgotten,
/// inclusive; -1 if they never do. One warp.
__device__ __forceinline__ int count_remembered(const SummaryArgs& args, const SummaryUnit& unit, int head) {
  constexpr int kLoads = 4;
  const int lane = threadIdx.x % 32, count = unit.last - unit.first;
  float before = 0;
  for (int begin = 0; begin < count; begin += kLoads * 32) {
    float logs[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int n = begin + 32 * i + lane;
      const int chunk = args.direction == Direction::kForward ? unit.last - 1 - n : unit.first + n;
      logs[i] = n < count
                    ? args.factors[(int64_t(chunk) * args.problem.HV + head) * kFactorElems + kChunk - 1]
                    : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      float sum = logs[i];
#pragma unroll
      for (int offset = 1; offset < 32; offset *= 2) {
        const float other = __shfl_up_sync(0xffffffffu, sum, offset);
        if (lane >= offset) sum += other;
      }
      const unsigned forgotten = __ballot_sync(0xffffffffu, before + sum <= kForgotten);
      if (forgotten) return begin + 32 * i + __ffs(int(forgotten));
      before += __shfl_sync(0xffffffffu, sum, 31);
    }
  }
  return -1;
}

template <int kK, Direction kDirection>
__device__ __forceinline__ void produce_summary(SummaryPipeline<kK, kDirection>& smem,
                                                const SummaryArgs& args, const SummaryBlock& b) {
  using S = SummaryPipeline<kK, kDirection>;
  const Problem& p = args.problem;
  const int thread = threadIdx.x % kWarpgroup, key_head = b.head * p.H / p.HV, count = smem.last - smem.first;
  const auto load = [&](int s, int index, const Chunk& chunk) {
    typename S::Operands& stage = smem.stages[s];
    if (thread == 0) {
      smem.full[s].expect((S::kBackward ? 2 : 1) * kImageBytes + kFactorBytes);
      const int64_t at = int64_t(index) * p.HV + b.head;
      bulk_load(stage.theta, args.theta + at * kImageElems, kImageBytes, &smem.full[s]);
      if constexpr (S::kBackward)
        bulk_load(stage.scores, args.scores + at * kImageElems, kImageBytes, &smem.full[s]);
      bulk_load(stage.factors, args.factors + at * kFactorElems, kFactorBytes, &smem.full[s]);
      smem.full[s].copies_started();
    }
    copy_rows<kK, kWarpgroup>(stage.k, p.k, chunk, key_head * kK, thread);
    if constexpr (S::kBackward) copy_rows<kK, kWarpgroup>(stage.q, p.q, chunk, key_head * kK, thread);
    if (!b.transition) {
      for (int i = 0; i < b.num_chains; ++i)
        copy_rows<64, kWarpgroup>(stage.values[i], args.values, chunk, b.head * p.V + (b.slab + i) * 64,
                                  thread);
    }
  };
  produce_stages(
      smem.full, smem.empty, p.chunks, [&] { return count; },
      [&](int n) { return S::kBackward ? smem.last - 1 - n : smem.first + n; }, load);
}

/// One chunk of the scan: S ← its S₁. No `values`: v = 0.
template <int kK>
__device__ __forceinline__ void advance_state(const ForwardOperands<kK>& stage, const bf16* values,
                                              State<kK>& state) {
  constexpr int kSteps = kK / 16, kGroup = kK <= 128 ? kSteps : 2;
  const uint32_t k = shared_address(stage.k);
  uint32_t v[4][4] = {};
  if (values) {
#pragma unroll
    for (int i = 0; i < 4; ++i) load_a_image_trans(v[i], values, threadIdx.x / 32 % 4 * 16, 16 * i);
  }
  float x[32] = {};
#pragma unroll
  for (int first = 0; first < kSteps; first += kGroup) {
    uint32_t a[kGroup][4];
#pragma unroll
    for (int i = 0; i < kGroup; ++i) state.fragment(a[i], first + i);
    pin_registers(x);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kGroup; ++i) wgmma_nk(x, a[i], k, 16 * (first + i));
    wgmma_commit();
    wgmma_wait<0>();
  }
  pin_registers(x);
  subtract_predicted(stage, v, x);
  uint32_t a[4][4];
  fragments(a, x);
  float n[32] = {};
  pin_registers(n);
  wgmma_fence();
#pragma unroll
  for (int i = 0; i < 4; ++i) wgmma_nk(n, a[i], shared_address(stage.theta), 16 * i);
  wgmma_commit();
  state.scale(stage.total());
  wgmma_wait<0>();
  pin_registers(n);
  scaled_fragments(a, n, stage.to_end());
  state.pin();
  wgmma_fence();
#pragma unroll
  for (int i = 0; i < 4; ++i) state.add_product(a[i], k, 16 * i);
  wgmma_commit();
  wgmma_wait<0>();
  state.pin();
}

template <int kK, Direction kDirection>
__device__ __forceinline__ void summarize_columns(SummaryPipeline<kK, kDirection>& smem,
                                                  const SummaryArgs& args, const SummaryBlock& b, int chain) {
  using S = SummaryPipeline<kK, kDirection>;
  const Problem& p = args.problem;
  const int width = b.transition ? p.K : p.V, column = (b.slab + chain) * 64;
  const auto matrix = [&](int index) { return (int64_t(index) * p.HV + b.head) * kK * width; };
  const float* start =
      !b.transition && args.start && b.unit.start >= 0 ? args.start + matrix(b.unit.start) : nullptr;
  // Where a start is given, chunks next to it may have been left out: it is forgotten too.
  const bool whole = smem.last - smem.first == b.unit.last - b.unit.first;
  State<kK> state;
  state.zero();
  if (b.transition) {
    state.for_each(column, [&](float& c, int k, int v) { c = float(k == v); });
  } else if (start && whole) {
    state.for_each(column, [&](float& c, int k, int v) { c = start[int64_t(k) * width + v]; });
  }
  for (int n = 0; n < smem.last - smem.first; ++n) {
    const int s = n % S::kStages;
    smem.full[s].wait(n / S::kStages & 1);
    const typename S::Operands& stage = smem.stages[s];
    if constexpr (S::kBackward) {
      retreat_state(
          stage, stage.values[chain], p.scale, state, nullptr, [] {}, [](const uint32_t(&)[4][4]) {});
    } else {
      advance_state(stage, b.transition ? nullptr : stage.values[chain], state);
    }
    __syncwarp();
    if (arrives_for_warp(threadIdx.x % 32)) smem.empty[s].arrive();
  }
  float* to = (b.transition ? args.transitions : args.states) + matrix(b.unit.index);
  state.for_each(column, [&](float& c, int k, int v) { to[int64_t(k) * width + v] = c; });
}

template <int kK, Direction kDirection>
__global__ void __launch_bounds__(SummaryShape<kK>::kThreads, 1)
    summarize_kernel(const __grid_constant__ SummaryArgs args) {
  using S = SummaryPipeline<kK, kDirection>;
  constexpr int kChains = SummaryShape<kK>::kChains;
  extern __shared__ __align__(1024) unsigned char smem_bytes[];
  S& smem = *reinterpret_cast<S*>(smem_bytes);
  const SummaryBlock b = summary_block<kChains>(args);
  if (!(b.transition ? b.unit.transition : b.unit.state)) return;
  const int group = threadIdx.x / kWarpgroup;
  if (threadIdx.x < 32) {
    const int remembered = count_remembered(args, b.unit, b.head);
    if (threadIdx.x == 0) {
      const int count = b.unit.last - b.unit.first, visited = remembered < 0 ? count : remembered;
      smem.first = S::kBackward ? b.unit.first : b.unit.last - visited;
      smem.last = S::kBackward ? b.unit.first + visited : b.unit.last;
      if (b.transition) {
        if (args.passes) args.passes[int64_t(b.unit.index) * args.problem.HV + b.head] = remembered < 0;
        if (remembered >= 0) smem.last = smem.first;
      }
      for (int s = 0; s < S::kStages; ++s) {
        smem.full[s].init(kWarpgroup + 1);
        smem.empty[s].init(b.num_chains * kWarpgroup / 32 * kWarpArrivals);
      }
      fence_barrier_init();
    }
  }
  __syncthreads();
  if (smem.first == smem.last) return;  // M is zero
  if (group == kChains) {
    if constexpr (kChains > 1) registers_decrease<88>();
    produce_summary(smem, args, b);
  } else {
    if constexpr (kChains > 1) registers_increase<208>();
    if (group < b.num_chains) summarize_columns(smem, args, b, group);
  }
}

template <int kK, Direction kDirection>
void launch_summarize_columns(cudaStream_t stream, const SummaryArgs& args) {
  using Shape = SummaryShape<kK>;
  constexpr int kBytes = sizeof(SummaryPipeline<kK, kDirection>);
  static_assert(kBytes <= 227 * 1024);
  const auto blocks_of = [](int width) { return ceil_div(width / 64, Shape::kChains); };
  const Problem& p = args.problem;
  const int64_t blocks =
      int64_t(args.num_units) * p.HV * (blocks_of(p.V) + (args.transitions ? blocks_of(p.K) : 0));
  allow_shared_memory(summarize_kernel<kK, kDirection>, kBytes);
  summarize_kernel<kK, kDirection><<<unsigned(blocks), Shape::kThreads, kBytes, stream>>>(args);
  check_launch("gated_delta_summarize");
}

}  // namespace spanwise::cuda::delta
