// dk and dv with wgmma and TMA: one block of 128 keys of one key head, of which each of two warpgroups keeps
// the sums of 64 in registers while blocks of 64 queries, of every head of the group, come by. Scores are
// computed transposed, [keys, queries]: P and dS are then register operands of the products that follow.

#include "core/ops/cuda/softmax_attention/wgmma_queries.cuh"

namespace spanwise::cuda {

namespace {

template <int kDim, int kStages>
struct Shared {
  SwizzledRows<kWgmmaRows, kDim> k, v;
  QueryRing<kDim, kStages> queries;
  MBarrier keys_full;
};

template <int kDim, int kStages>
__device__ __forceinline__ void consume(Shared<kDim, kStages>& shared, const AttentionArgsBf16& a,
                                        const KeyPlace& place) {
  auto& queries = shared.queries;
  const int group = warpgroup_index() - 1, warp = int(threadIdx.x) / 32 % 4, lane = int(threadIdx.x) % 32;
  const int row0 = 64 * group + 16 * warp, key = place.first + row0 + lane / 4;
  const int2* ranges = a.ranges + int64_t(place.batch) * a.num_queries;
  const uint64_t k = shared.k.descriptor(64 * group), v = shared.v.descriptor(64 * group);
  float dk[kDim / 8][4] = {}, dv[kDim / 8][4] = {};
  float s[kQueries / 8][4], dp[kQueries / 8][4];
  uint32_t p[kQueries / 16][4], ds[kQueries / 16][4];

  shared.keys_full.wait(0);
  RingPosition<kStages> ring;
  for (;; ring.advance()) {
    const int stage = ring.stage;
    queries.full[stage].wait(ring.parity);
    const int query0 = __shfl_sync(0xffffffffu, queries.step[stage].query0, 0);
    if (query0 < 0) break;
    wgmma_fence();
    start_transposed<kDim, kWgmmaRows, kQueries>(s, k, queries.q[stage].descriptor());
    wgmma_commit();
    start_transposed<kDim, kWgmmaRows, kQueries>(dp, v, queries.dout[stage].descriptor());
    wgmma_commit();
    wgmma_wait<1>();
    pin_registers(s);
    if (queries.step[stage].masked) mask_columns(s, ranges + query0, a.num_queries - query0, key);
    probabilities_of_columns(s, a.scale_log2, queries.lse[stage]);
    to_a_fragments(p, s);
    pin_registers(p);
    wgmma_fence();
    start_add(dv, p, queries.dout[stage].descriptor_rows());
    wgmma_commit();
    wgmma_wait<1>();
    pin_registers(dp);
    score_gradient_of_columns(dp, s, queries.delta[stage]);
    to_a_fragments(ds, dp);
    pin_registers(ds);
    wgmma_fence();
    start_add(dk, ds, queries.q[stage].descriptor_rows());
    wgmma_commit();
    wgmma_wait<0>();
    pin_registers(dk);
    pin_registers(dv);
    if (arrives_for_warp(lane)) queries.empty[stage].arrive();
  }

  const float dk_factor[2] = {a.scale, a.scale}, dv_factor[2] = {1.0f, 1.0f};
  named_barrier_sync(1 + group, 128);  // this warpgroup's products no longer read its keys and values
  const auto store = [&](SwizzledRows<kWgmmaRows, kDim>& tile, bf16* to, const float(&x)[kDim / 8][4],
                         const float(&factor)[2]) {
    store_warp_rows(tile, row0, to, place.batch, a.num_keys, a.kv_heads, place.kv_head, place.first + row0, x,
                    factor);
  };
  store(shared.k, a.dk, dk, dk_factor);
  store(shared.v, a.dv, dv, dv_factor);
}

template <int kDim, int kStages>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    dkdv_kernel(const AttentionArgsBf16 a, const __grid_constant__ BackwardMaps maps) {
  extern __shared__ uint8_t raw[];
  auto& shared = aligned_shared<Shared<kDim, kStages>>(raw);
  const KeyPlace place{int(blockIdx.x) * kWgmmaRows, int(blockIdx.y), int(blockIdx.z)};
  if (threadIdx.x == 0) {
    shared.keys_full.init(1);
    shared.queries.init();
    fence_barrier_init();
  }
  __syncthreads();
  if (warpgroup_index() == 0) {
    registers_decrease<kProducerRegisters>();
    if (threadIdx.x < 32) produce_steps(shared.k, shared.v, shared.keys_full, shared.queries, maps, a, place);
  } else {
    registers_increase<kConsumerRegisters>();
    consume(shared, a, place);
  }
}

template <int kDim, int kStages>
void launch(cudaStream_t stream, const AttentionArgsBf16& a) {
  constexpr auto* kernel = dkdv_kernel<kDim, kStages>;
  constexpr int kSharedBytes = shared_bytes_of<Shared<kDim, kStages>>();
  static const bool ready = (allow_shared_memory(kernel, kSharedBytes), true);
  (void)ready;
  const dim3 grid(ceil_div(a.num_keys, kWgmmaRows), a.kv_heads, a.batch);
  kernel<<<grid, kWgmmaThreads, kSharedBytes, stream>>>(a, backward_maps<kDim>(a, kQueries, kWgmmaRows));
  check_launch("softmax_attention_wgmma_dkdv");
}

}  // namespace

void attention_dkdv_wgmma(cudaStream_t stream, const AttentionArgsBf16& args) {
  switch (args.key_width) {
    case 64:
      return launch<64, 4>(stream, args);
    case 128:
      return launch<128, 3>(stream, args);
    default:
      SPANWISE_FAIL("attention_dkdv_wgmma supports head dims 64 and 128, got {}", args.key_width);
  }
}

}  // namespace spanwise::cuda
