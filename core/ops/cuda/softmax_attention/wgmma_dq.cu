// dq with wgmma and TMA: one block of 128 queries of one head walks over its keys. dS stays in registers as
// the operand of dS·K.

#include "core/ops/cuda/softmax_attention/wgmma_queries.cuh"

namespace spanwise::cuda {

namespace {

constexpr int kStages = 2;  // of keys

template <int kDim, int kKeys, int kValueStages>
struct Shared {
  SwizzledRows<kWgmmaRows, kDim> q, dout;
  SwizzledRows<kKeys, kDim> k[kStages], v[kValueStages];
  MBarrier queries_full, k_full[kStages], k_empty[kStages], v_full[kValueStages], v_empty[kValueStages];
};

/// Blocks [begin, end) of keys.
struct KeyBlocks {
  int begin, end;
};

// One thread.
template <int kDim, int kKeys, int kValueStages>
__device__ __forceinline__ void produce(Shared<kDim, kKeys, kValueStages>& shared, const BackwardMaps& maps,
                                        KeyBlocks blocks, int head, int kv_head, int first, int batch) {
  shared.queries_full.arrive_expecting(2 * shared.q.kBytes);
  shared.q.load(maps.q, shared.queries_full, head, first, batch);
  shared.dout.load(maps.dout, shared.queries_full, head, first, batch);
  RingPosition<kStages> keys;
  RingPosition<kValueStages> values;
#pragma unroll 1  // few registers
  for (int block = blocks.begin; block < blocks.end; ++block, keys.advance(), values.advance()) {
    shared.k_empty[keys.stage].wait(keys.parity ^ 1);
    shared.k_full[keys.stage].arrive_expecting(shared.k[0].kBytes);
    shared.k[keys.stage].load(maps.k, shared.k_full[keys.stage], kv_head, block * kKeys, batch);
    shared.v_empty[values.stage].wait(values.parity ^ 1);
    shared.v_full[values.stage].arrive_expecting(shared.v[0].kBytes);
    shared.v[values.stage].load(maps.v, shared.v_full[values.stage], kv_head, block * kKeys, batch);
  }
}

template <int kDim, int kKeys, int kValueStages>
__device__ __forceinline__ void consume(Shared<kDim, kKeys, kValueStages>& shared, const AttentionArgsBf16& a,
                                        const BlockBounds& bounds, KeyBlocks blocks, int head, int first,
                                        int batch) {
  const int group = warpgroup_index() - 1, warp = int(threadIdx.x) / 32 % 4, lane = int(threadIdx.x) % 32;
  const int row0 = 64 * group + 16 * warp;
  const LaneRanges ranges(a.ranges, int64_t(batch) * a.num_queries, first + row0, a.num_queries);
  const uint64_t q = shared.q.descriptor(64 * group), dout = shared.dout.descriptor(64 * group);
  const int64_t statistics = (int64_t(batch) * a.heads + head) * a.padded + first + row0 + lane / 4;
  const float lse[2] = {a.padded_lse[statistics], a.padded_lse[statistics + 8]};
  const float delta[2] = {a.delta[statistics], a.delta[statistics + 8]};
  float dq[kDim / 8][4] = {}, s[kKeys / 8][4], dp[kKeys / 8][4];
  uint32_t ds[kKeys / 16][4];

  shared.queries_full.wait(0);
  RingPosition<kStages> keys;
  RingPosition<kValueStages> values;
  for (int block = blocks.begin; block < blocks.end; ++block, keys.advance(), values.advance()) {
    const int key0 = block * kKeys;
    shared.k_full[keys.stage].wait(keys.parity);
    wgmma_fence();
    start_transposed<kDim, kWgmmaRows, kKeys>(s, q, shared.k[keys.stage].descriptor());
    wgmma_commit();
    shared.v_full[values.stage].wait(values.parity);
    wgmma_fence();
    start_transposed<kDim, kWgmmaRows, kKeys>(dp, dout, shared.v[values.stage].descriptor());
    wgmma_commit();
    wgmma_wait<1>();
    pin_registers(s);
    if (!bounds.all_read(key0, key0 + kKeys)) mask_scores(s, ranges, key0);
    probabilities_of_rows(s, a.scale_log2, lse);
    wgmma_wait<0>();
    pin_registers(dp);
    if (arrives_for_warp(lane)) shared.v_empty[values.stage].arrive();
    score_gradient_of_rows(dp, s, delta);
    to_a_fragments(ds, dp);
    pin_registers(ds);
    wgmma_fence();
    start_add(dq, ds, shared.k[keys.stage].descriptor_rows());
    wgmma_commit();
    wgmma_wait<0>();
    pin_registers(dq);
    if (arrives_for_warp(lane)) shared.k_empty[keys.stage].arrive();
  }

  const float factor[2] = {a.scale, a.scale};
  named_barrier_sync(1 + group, 128);  // this warpgroup's products no longer read its queries
  store_warp_rows(shared.q, row0, a.dq, batch, a.num_queries, a.heads, head, first + row0, dq, factor);
}

template <int kDim, int kKeys, int kValueStages>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    dq_kernel(const AttentionArgsBf16 a, const __grid_constant__ BackwardMaps maps) {
  extern __shared__ uint8_t raw[];
  auto& shared = aligned_shared<Shared<kDim, kKeys, kValueStages>>(raw);
  const int block = gridDim.x - 1 - blockIdx.x, head = blockIdx.y, batch = blockIdx.z;
  const BlockBounds bounds =
      joined_bounds<2>(a.bounds + int64_t(batch) * a.num_bounds, 2 * block, a.num_bounds);
  KeyBlocks blocks{0, 0};
  if (bounds.read_begin < bounds.read_end)
    blocks = {bounds.read_begin / kKeys, (bounds.read_end + kKeys - 1) / kKeys};
  if (threadIdx.x == 0) {
    shared.queries_full.init(1);
    for (int i = 0; i < kStages; ++i) {
      shared.k_full[i].init(1);
      shared.k_empty[i].init(kConsumerWarps * kWarpArrivals);
    }
    for (int i = 0; i < kValueStages; ++i) {
      shared.v_full[i].init(1);
      shared.v_empty[i].init(kConsumerWarps * kWarpArrivals);
    }
    fence_barrier_init();
  }
  __syncthreads();
  if (warpgroup_index() == 0) {
    registers_decrease<kProducerRegisters>();
    if (threadIdx.x == 0)
      produce(shared, maps, blocks, head, head / (a.heads / a.kv_heads), block * kWgmmaRows, batch);
  } else {
    registers_increase<kConsumerRegisters>();
    consume(shared, a, bounds, blocks, head, block * kWgmmaRows, batch);
  }
}

template <int kDim, int kKeys, int kValueStages>
void launch(cudaStream_t stream, const AttentionArgsBf16& a) {
  constexpr auto* kernel = dq_kernel<kDim, kKeys, kValueStages>;
  constexpr int kSharedBytes = shared_bytes_of<Shared<kDim, kKeys, kValueStages>>();
  static const bool ready = (allow_shared_memory(kernel, kSharedBytes), true);
  (void)ready;
  const dim3 grid(ceil_div(a.num_queries, kWgmmaRows), a.heads, a.batch);
  kernel<<<grid, kWgmmaThreads, kSharedBytes, stream>>>(a, backward_maps<kDim>(a, kWgmmaRows, kKeys));
  check_launch("softmax_attention_wgmma_dq");
}

}  // namespace

void attention_dq_wgmma(cudaStream_t stream, const AttentionArgsBf16& args) {
  switch (args.key_width) {
    case 64:
      return launch<64, 128, 2>(stream, args);
    case 128:
      return launch<128, 128, 2>(stream, args);
    case 256:
      return launch<256, 64, 1>(stream, args);
    default:
      SPANWISE_FAIL("attention_dq_wgmma supports head dims 64, 128 and 256, got {}", args.key_width);
  }
}

}  // namespace spanwise::cuda
