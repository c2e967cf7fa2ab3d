#pragma once
// The backward scan. Per chunk, with everything transposed (rows are columns of V, columns tokens), D = dS:
//
//   dNᵀ = e^{Ḡ−G}∘(Dᵀ Kᵀ) + dOᵀ A    Zᵀ = dNᵀ Θ    Dᵀ ← e^Ḡ Dᵀ + (s e^G∘dOᵀ) Q − (β e^G∘Zᵀ) K

#include "core/ops/cuda/delta/pipeline.cuh"

namespace spanwise::cuda::delta {

/// x = Dᵀ Kᵀ and y = dOᵀ A, complete on return; the fragments of Dᵀ go to `staged` unless it is nullptr.
template <int kK, class Operands>
__device__ __forceinline__ void multiply_gradient(const Operands& stage, const State<kK>& state,
                                                  const uint32_t (&dout)[4][4], bf16* staged, float (&x)[32],
                                                  float (&y)[32]) {
  constexpr int kSteps = kK / 16, kGroup = kK <= 128 ? kSteps : 2;
  const int warp = threadIdx.x / 32 % 4;
  if (staged) wait_state_sent();
#pragma unroll
  for (int first = 0; first < kSteps; first += kGroup) {
    uint32_t a[kGroup][4];
#pragma unroll
    for (int i = 0; i < kGroup; ++i) state.fragment(a[i], first + i);
    pin_registers(x);
    pin_registers(y);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kGroup; ++i) wgmma_nk(x, a[i], shared_address(stage.k), 16 * (first + i));
    if (first == 0) {
#pragma unroll
      for (int i = 0; i < 4; ++i) wgmma_kn(y, dout[i], shared_address(stage.scores), 16 * i);
    }
    wgmma_commit();
    if (staged) {
#pragma unroll
      for (int i = 0; i < kGroup; ++i) store_a_image(a[i], staged, 16 * warp, 16 * (first + i));
    }
    wgmma_wait<0>();
  }
  pin_registers(x);
  pin_registers(y);
}

/// x ← e^{Ḡ−G}∘x + y, as fragments.
__device__ __forceinline__ void value_gradients(const Factors& stage, const float (&x)[32],
                                                const float (&y)[32], uint32_t (&a)[4][4]) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const float2 f = *reinterpret_cast<const float2*>(stage.to_end() + 8 * n + 2 * t);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const int i = 4 * n + 2 * row;
      a[n / 2][n % 2 * 2 + row] = pack_bf16(f.x * x[i] + y[i], f.y * x[i + 1] + y[i + 1]);
    }
  }
}

/// Fragments times `factor` and a factor of the column, 16 columns from `from_start`.
__device__ __forceinline__ void scale_fragment(uint32_t (&a)[4], float factor, const float* from_start) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 f = *reinterpret_cast<const float2*>(from_start + i / 2 * 8 + 2 * t);
    const float2 x = unpack_bf16(a[i]);
    a[i] = pack_bf16(x.x * (factor * f.x), x.y * (factor * f.y));
  }
}

/// −β e^G∘Zᵀ, which multiplies K, as fragments.
__device__ __forceinline__ void key_factors(const Factors& stage, const float (&z)[32], uint32_t (&a)[4][4]) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float2 beta = *reinterpret_cast<const float2*>(stage.beta() + 8 * j + 2 * t);
    const float2 decay = *reinterpret_cast<const float2*>(stage.from_start() + 8 * j + 2 * t);
#pragma unroll
    for (int row = 0; row < 2; ++row)
      a[j / 2][j % 2 * 2 + row] =
          pack_bf16(-beta.x * decay.x * z[4 * j + 2 * row], -beta.y * decay.y * z[4 * j + 2 * row + 1]);
  }
}

/// One chunk: D ← its dS₀. D's fragments go to `staged` unless it is nullptr, and then when_staged() is
/// called; use_z() gets those of Zᵀ while the last product runs.
template <int kK, class Operands, class WhenStaged, class UseZ>
__device__ __forceinline__ void retreat_state(const Operands& stage, const bf16* dout_image, float scale,
                                              State<kK>& state, bf16* staged, WhenStaged&& when_staged,
                                              UseZ&& use_z) {
  const int warp = threadIdx.x / 32 % 4;
  uint32_t dout[4][4];
  float from_out[32] = {}, x[32] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) load_a_image_trans(dout[i], dout_image, 16 * warp, 16 * i);
  multiply_gradient(stage, state, dout, staged, x, from_out);
  if (staged) when_staged();
  uint32_t a[4][4];
  value_gradients(stage, x, from_out, a);
  float z[32] = {};
  pin_registers(z);
  wgmma_fence();
#pragma unroll
  for (int i = 0; i < 4; ++i) wgmma_kn(z, a[i], shared_address(stage.theta), 16 * i);
  wgmma_commit();

  state.scale(stage.total());
#pragma unroll
  for (int i = 0; i < 4; ++i) scale_fragment(dout[i], scale, stage.from_start() + 16 * i);
  state.pin();
  wgmma_fence();
#pragma unroll
  for (int i = 0; i < 4; ++i) state.add_product(dout[i], shared_address(stage.q), 16 * i);
  wgmma_commit();
  wgmma_wait<1>();
  pin_registers(z);
  fragments(a, z);
  uint32_t to_state[4][4];
  key_factors(stage, z, to_state);
  wgmma_fence();
#pragma unroll
  for (int i = 0; i < 4; ++i) state.add_product(to_state[i], shared_address(stage.k), 16 * i);
  wgmma_commit();
  use_z(a);
  wgmma_wait<0>();
  state.pin();
}

template <int kK>
__device__ __forceinline__ void retreat(Pipeline<kK>& smem, const RetreatArgs& args, const Unit& unit, int n,
                                        State<kK>& state) {
  const Problem& p = args.problem;
  const int s = n % Pipeline<kK>::kStages, index = unit.segment.last - 1 - n;
  smem.full[s].wait(n / Pipeline<kK>::kStages & 1);
  const Stage<kK>& stage = smem.stages[s];
  const int slot = __shfl_sync(0xffffffffu, smem.chunks[s].state_out, 0);
  retreat_state(
      stage, stage.values, p.scale, state, slot >= 0 ? smem.state : nullptr,
      [&] { send_state(smem, args.dstates + unit.image(slot, p, kK / 64) * kImageElems); },
      [&](const uint32_t(&z)[4][4]) {
        LanePieces(smem.values, z).store_image(args.z + unit.image(index, p, 1) * kImageElems);
      });
  __syncwarp();
  if (arrives_for_warp(threadIdx.x % 32)) smem.empty[s].arrive();
}

template <int kK>
__global__ void __launch_bounds__(kScanThreads, 1) retreat_kernel(const __grid_constant__ RetreatArgs args) {
  extern __shared__ __align__(1024) unsigned char smem_bytes[];
  Pipeline<kK>& smem = *reinterpret_cast<Pipeline<kK>*>(smem_bytes);
  const Problem& p = args.problem;
  const Unit unit = unit_of_block(p, args.segments);
  init_pipeline(smem);
  if (threadIdx.x >= kWarpgroup) {
    produce<kK, Direction::kBackward>(smem, p, unit, args.dout, args.theta, args.scores, args.factors);
    return;
  }
  State<kK> state;
  const float* start = unit.start(args.dfinal, unit.segment.final, args.pieces, p);
  state.zero();
  if (start) state.for_each(unit.slab * 64, [&](float& c, int k, int v) { c = start[int64_t(k) * p.V + v]; });
  for (int n = 0; n < unit.num_chunks(); ++n) retreat(smem, args, unit, n, state);
  if (args.dinitial && unit.segment.initial >= 0) {
    float* dinitial = args.dinitial + unit.matrix(unit.segment.initial, p);
    state.for_each(unit.slab * 64, [&](float& c, int k, int v) { dinitial[int64_t(k) * p.V + v] = c; });
  }
  wait_state_sent();
}

template <int kK>
void launch_retreat_of(cudaStream_t stream, const RetreatArgs& args) {
  launch_pipeline(retreat_kernel<kK>, "gated_delta_retreat", sizeof(Pipeline<kK>), stream, args);
}

}  // namespace spanwise::cuda::delta
