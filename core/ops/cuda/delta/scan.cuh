#pragma once
// The forward scan. Per chunk, with everything transposed (rows are columns of V, columns tokens):
//
//   Xᵀ = β∘(Vᵀ − e^G∘(Sᵀ Kᵀ))    Nᵀ = Xᵀ Θᵀ    Sᵀ ← e^Ḡ Sᵀ + (e^{Ḡ−G}∘Nᵀ) K    Oᵀ = s e^G∘(Sᵀ Qᵀ) + Nᵀ Aᵀ
//
// Accumulators of one product are the register operand of the next, so a warpgroup needs no shared memory for
// its own results.

#include "core/ops/cuda/delta/pipeline.cuh"

namespace spanwise::cuda::delta {

/// x = Sᵀ Kᵀ and o = Sᵀ Qᵀ; the fragments of Sᵀ go to the staged state if `save`. K's product is complete on
/// return; Q's may be under way.
template <int kK>
__device__ __forceinline__ void multiply_state(Pipeline<kK>& smem, const Stage<kK>& stage, State<kK>& state,
                                               bool save, float (&x)[32], float (&o)[32]) {
  constexpr int kSteps = kK / 16, kGroup = kK <= 128 ? kSteps : 2;
  const uint32_t k = shared_address(stage.k), q = shared_address(stage.q);
  const int warp = threadIdx.x / 32;
  if (save) wait_state_sent();
#pragma unroll
  for (int first = 0; first < kSteps; first += kGroup) {
    uint32_t a[kGroup][4];
#pragma unroll
    for (int i = 0; i < kGroup; ++i) state.fragment(a[i], first + i);
    pin_registers(x);
    pin_registers(o);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kGroup; ++i) wgmma_nk(x, a[i], k, 16 * (first + i));
    wgmma_commit();
#pragma unroll
    for (int i = 0; i < kGroup; ++i) wgmma_nk(o, a[i], q, 16 * (first + i));
    wgmma_commit();
    if (save) {
#pragma unroll
      for (int i = 0; i < kGroup; ++i) store_a_image(a[i], smem.state, 16 * warp, 16 * (first + i));
    }
    constexpr bool kLast = kGroup == kSteps;
    wgmma_wait<kLast ? 1 : 0>();
  }
  pin_registers(x);
}

template <int kK>
__device__ __forceinline__ void advance(Pipeline<kK>& smem, const ScanArgs& args, const Unit& unit, int n,
                                        State<kK>& state) {
  const Problem& p = args.problem;
  const int s = n % Pipeline<kK>::kStages, index = unit.segment.first + n, t = threadIdx.x % 4;
  smem.full[s].wait(n / Pipeline<kK>::kStages & 1);
  const Stage<kK>& stage = smem.stages[s];
  const Chunk chunk = smem.chunks[s];
  const bool save = args.states && __shfl_sync(0xffffffffu, chunk.state_in, 0) >= 0;

  uint32_t v[4][4];
#pragma unroll
  for (int i = 0; i < 4; ++i) load_a_image_trans(v[i], stage.values, threadIdx.x / 32 * 16, 16 * i);
  float x[32] = {}, o[32] = {};
  multiply_state(smem, stage, state, save, x, o);
  subtract_predicted(stage, v, x);
  uint32_t a[4][4];
  fragments(a, x);
  float values[32] = {};
  pin_registers(values);
  wgmma_fence();
#pragma unroll
  for (int i = 0; i < 4; ++i) wgmma_nk(values, a[i], shared_address(stage.theta), 16 * i);
  wgmma_commit();
  if (save) send_state(smem, args.states + unit.image(chunk.state_in, p, kK / 64) * kImageElems);
  state.scale(stage.total());
  wgmma_wait<0>();
  pin_registers(values);
  pin_registers(o);

  uint32_t to_state[4][4];
  scaled_fragments(to_state, values, stage.to_end());
  fragments(a, values);
  state.pin();
  wgmma_fence();
#pragma unroll
  for (int i = 0; i < 4; ++i) state.add_product(to_state[i], shared_address(stage.k), 16 * i);
  wgmma_commit();
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float2 decay = *reinterpret_cast<const float2*>(stage.from_start() + 8 * j + 2 * t);
#pragma unroll
    for (int i = 0; i < 4; ++i) o[4 * j + i] *= p.scale * (i % 2 == 0 ? decay.x : decay.y);
  }
  pin_registers(o);
  wgmma_fence();
#pragma unroll
  for (int i = 0; i < 4; ++i) wgmma_nk(o, a[i], shared_address(stage.scores), 16 * i);
  wgmma_commit();
  if (args.values) {
    LanePieces(smem.values, a).store_image(args.values + unit.image(index, p, 1) * kImageElems);
  }
  wgmma_wait<0>();
  state.pin();
  __syncwarp();
  if (arrives_for_warp(threadIdx.x % 32)) smem.empty[s].arrive();
  pin_registers(o);
  fragments(a, o);
  bf16* out = args.out.data + chunk.begin * args.out.stride + unit.head * p.V + unit.slab * 64;
  LanePieces(smem.values, a).store_rows(out, args.out.stride, chunk.length);
}

template <int kK>
__global__ void __launch_bounds__(kScanThreads, 1) scan_kernel(const __grid_constant__ ScanArgs args) {
  extern __shared__ __align__(1024) unsigned char smem_bytes[];
  Pipeline<kK>& smem = *reinterpret_cast<Pipeline<kK>*>(smem_bytes);
  const Problem& p = args.problem;
  const Unit unit = unit_of_block(p, args.segments);
  init_pipeline(smem);
  if (threadIdx.x >= kWarpgroup) {
    produce<kK, Direction::kForward>(smem, p, unit, args.v, args.theta, args.scores, args.factors);
    return;
  }
  State<kK> state;
  const float* start = unit.start(args.initial, unit.segment.initial, args.pieces, p);
  state.zero();
  if (start) state.for_each(unit.slab * 64, [&](float& c, int k, int v) { c = start[int64_t(k) * p.V + v]; });
  for (int n = 0; n < unit.num_chunks(); ++n) advance(smem, args, unit, n, state);
  if (unit.segment.final >= 0) {
    float* final = args.final + unit.matrix(unit.segment.final, p);
    state.for_each(unit.slab * 64, [&](float& c, int k, int v) { final[int64_t(k) * p.V + v] = c; });
  }
  wait_state_sent();
}

template <int kK>
void launch_scan_of(cudaStream_t stream, const ScanArgs& args) {
  launch_pipeline(scan_kernel<kK>, "gated_delta_scan", sizeof(Pipeline<kK>), stream, args);
}

}  // namespace spanwise::cuda::delta
