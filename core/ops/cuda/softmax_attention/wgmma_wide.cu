// dk and dv of head dim 256 with wgmma and TMA: one block of 64 keys of one key head. The sums of 64 keys
// fill a warpgroup's registers, so one warpgroup has those of dv and computes P, the other those of dk and
// computes dP; P passes between threads of equal index through shared memory.

#include "core/ops/cuda/softmax_attention/wgmma_queries.cuh"

namespace spanwise::cuda {

namespace {

constexpr int kDim = 256, kKeys = 64, kStages = 2, kFragments = kQueries / 16;

struct Shared {
  SwizzledRows<kKeys, kDim> k, v;
  QueryRing<kDim, kStages> queries;
  uint4 p[2][kFragments][128];  ///< of alternate steps
  MBarrier keys_full, keys_free, p_full[2], p_empty[2];
};

/// Whose turn it is at the two places of Shared::p.
using Exchange = RingPosition<2>;

// Stores a warpgroup's sums through the tile whose rows they belong to.
__device__ __forceinline__ void store_sums(Shared& shared, SwizzledRows<kKeys, kDim>& tile,
                                           const AttentionArgsBf16& a, const KeyPlace& place, bf16* to,
                                           const float (&x)[kDim / 8][4], float scale) {
  const int row0 = int(threadIdx.x) / 32 % 4 * 16;
  const float factor[2] = {scale, scale};
  // Both warpgroups' products no longer read keys and values.
  if (arrives_for_warp(int(threadIdx.x) % 32)) shared.keys_free.arrive();
  shared.keys_free.wait(0);
  store_warp_rows(tile, row0, to, place.batch, a.num_keys, a.kv_heads, place.kv_head, place.first + row0, x,
                  factor);
}

// The first consuming warpgroup: P and dv.
__device__ __forceinline__ void consume_values(Shared& shared, const AttentionArgsBf16& a,
                                               const KeyPlace& place) {
  auto& queries = shared.queries;
  const int thread = int(threadIdx.x) % 128, lane = thread % 32;
  const int key = place.first + thread / 32 * 16 + lane / 4;
  const int2* ranges = a.ranges + int64_t(place.batch) * a.num_queries;
  float dv[kDim / 8][4] = {}, s[kQueries / 8][4];
  uint32_t p[kFragments][4];
  shared.keys_full.wait(0);
  RingPosition<kStages> ring;
  Exchange exchange;
  int previous = -1;  // the stage whose last product may be under way
  for (;; ring.advance(), exchange.advance()) {
    const int stage = ring.stage;
    queries.full[stage].wait(ring.parity);
    const int query0 = __shfl_sync(0xffffffffu, queries.step[stage].query0, 0);
    if (query0 < 0) break;
    wgmma_fence();
    start_transposed<kDim, kKeys, kQueries>(s, shared.k.descriptor(), queries.q[stage].descriptor());
    wgmma_commit();
    wgmma_wait<0>();
    pin_registers(s);
    pin_registers(dv);
    if (previous >= 0 && arrives_for_warp(lane)) queries.empty[previous].arrive();
    previous = stage;
    if (queries.step[stage].masked) mask_columns(s, ranges + query0, a.num_queries - query0, key);
    probabilities_of_columns(s, a.scale_log2, queries.lse[stage]);
    to_a_fragments(p, s);
    shared.p_empty[exchange.stage].wait(exchange.parity ^ 1);
#pragma unroll
    for (int i = 0; i < kFragments; ++i)
      shared.p[exchange.stage][i][thread] = {p[i][0], p[i][1], p[i][2], p[i][3]};
    __syncwarp();
    if (arrives_for_warp(lane)) shared.p_full[exchange.stage].arrive();
    pin_registers(p);
    wgmma_fence();
    start_add(dv, p, queries.dout[stage].descriptor_rows());
    wgmma_commit();
  }
  wgmma_wait<0>();
  pin_registers(dv);
  store_sums(shared, shared.v, a, place, a.dv, dv, 1.0f);
}

// The second: dP, dS and dk.
__device__ __forceinline__ void consume_keys(Shared& shared, const AttentionArgsBf16& a,
                                             const KeyPlace& place) {
  auto& queries = shared.queries;
  const int thread = int(threadIdx.x) % 128, lane = thread % 32;
  float dk[kDim / 8][4] = {}, dp[kQueries / 8][4];
  uint32_t p[kFragments][4], ds[kFragments][4];
  shared.keys_full.wait(0);
  RingPosition<kStages> ring;
  Exchange exchange;
  int previous = -1;
  for (;; ring.advance(), exchange.advance()) {
    const int stage = ring.stage;
    queries.full[stage].wait(ring.parity);
    if (__shfl_sync(0xffffffffu, queries.step[stage].query0, 0) < 0) break;
    wgmma_fence();
    start_transposed<kDim, kKeys, kQueries>(dp, shared.v.descriptor(), queries.dout[stage].descriptor());
    wgmma_commit();
    wgmma_wait<0>();
    pin_registers(dp);
    pin_registers(dk);
    if (previous >= 0 && arrives_for_warp(lane)) queries.empty[previous].arrive();
    previous = stage;
    shared.p_full[exchange.stage].wait(exchange.parity);
#pragma unroll
    for (int i = 0; i < kFragments; ++i) {
      const uint4 given = shared.p[exchange.stage][i][thread];
      p[i][0] = given.x;
      p[i][1] = given.y;
      p[i][2] = given.z;
      p[i][3] = given.w;
    }
    __syncwarp();
    if (arrives_for_warp(lane)) shared.p_empty[exchange.stage].arrive();
    score_gradient_of_columns(dp, p, queries.delta[stage]);
    to_a_fragments(ds, dp);
    pin_registers(ds);
    wgmma_fence();
    start_add(dk, ds, queries.q[stage].descriptor_rows());
    wgmma_commit();
  }
  wgmma_wait<0>();
  pin_registers(dk);
  store_sums(shared, shared.k, a, place, a.dk, dk, a.scale);
}

__global__ void __launch_bounds__(kWgmmaThreads, 1)
    wide_kernel(const AttentionArgsBf16 a, const __grid_constant__ BackwardMaps maps) {
  extern __shared__ uint8_t raw[];
  auto& shared = aligned_shared<Shared>(raw);
  const KeyPlace place{int(blockIdx.x) * kKeys, int(blockIdx.y), int(blockIdx.z)};
  if (threadIdx.x == 0) {
    shared.keys_full.init(1);
    shared.keys_free.init(kConsumerWarps * kWarpArrivals);
    shared.queries.init();
    for (int i = 0; i < 2; ++i) {
      shared.p_full[i].init(kConsumerWarps / 2 * kWarpArrivals);
      shared.p_empty[i].init(kConsumerWarps / 2 * kWarpArrivals);
    }
    fence_barrier_init();
  }
  __syncthreads();
  const int group = warpgroup_index();
  if (group == 0) {
    registers_decrease<kProducerRegisters>();
    if (threadIdx.x < 32) produce_steps(shared.k, shared.v, shared.keys_full, shared.queries, maps, a, place);
  } else {
    registers_increase<kConsumerRegisters>();
    if (group == 1) {
      consume_values(shared, a, place);
    } else {
      consume_keys(shared, a, place);
    }
  }
}

}  // namespace

void attention_dkdv_wide_wgmma(cudaStream_t stream, const AttentionArgsBf16& a) {
  SPANWISE_CHECK(a.key_width == kDim, "attention_dkdv_wide_wgmma supports head dim {}, got {}", kDim,
                 a.key_width);
  constexpr int kSharedBytes = shared_bytes_of<Shared>();
  static const bool ready = (allow_shared_memory(wide_kernel, kSharedBytes), true);
  (void)ready;
  const dim3 grid(ceil_div(a.num_keys, kKeys), a.kv_heads, a.batch);
  wide_kernel<<<grid, kWgmmaThreads, kSharedBytes, stream>>>(a, backward_maps<kDim>(a, kQueries, kKeys));
  check_launch("softmax_attention_wgmma_wide");
}

}  // namespace spanwise::cuda
