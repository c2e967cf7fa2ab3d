// Softmax attention forward with wgmma and TMA: one block of 128 queries of one head. Each of two warpgroups
// computes the next block's scores and this block's P·V while it exponentiates, and the two take turns at
// issuing products, so that one's exponentials run under the other's products.

#include "core/ops/cuda/softmax_attention_wgmma.cuh"

namespace spanwise::cuda {

namespace {

constexpr int kStages = 2;

template <int kDim, int kKeys>
struct Shared {
  SwizzledRows<kWgmmaRows, kDim> q;
  SwizzledRows<kKeys, kDim> k[kStages], v[kStages];
  MBarrier q_full, k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages];
};

/// Blocks [begin, end) of keys.
struct KeyBlocks {
  int begin, end;
};

template <int kDim, int kKeys>
__device__ __forceinline__ void produce(Shared<kDim, kKeys>& shared, const CUtensorMap& q,
                                        const CUtensorMap& k, const CUtensorMap& v, KeyBlocks blocks,
                                        int head, int kv_head, int first, int batch) {
  shared.q_full.arrive_expecting(shared.q.kBytes);
  shared.q.load(q, shared.q_full, head, first, batch);
  RingPosition<kStages> ring;
  for (int block = blocks.begin; block < blocks.end; ++block, ring.advance()) {
    const int stage = ring.stage;
    shared.k_empty[stage].wait(ring.parity ^ 1);
    shared.k_full[stage].arrive_expecting(shared.k[0].kBytes);
    shared.k[stage].load(k, shared.k_full[stage], kv_head, block * kKeys, batch);
    shared.v_empty[stage].wait(ring.parity ^ 1);
    shared.v_full[stage].arrive_expecting(shared.v[0].kBytes);
    shared.v[stage].load(v, shared.v_full[stage], kv_head, block * kKeys, batch);
  }
}

// Named barriers 1 and 2: a warpgroup's turn to issue products.
__device__ __forceinline__ void await_turn(int group) {
  named_barrier_sync(1 + group, 256);
}
__device__ __forceinline__ void give_turn(int group) {
  named_barrier_arrive(2 - group, 256);
}

template <int kDim, int kKeys>
__device__ __forceinline__ void consume(Shared<kDim, kKeys>& shared, const AttentionArgsBf16& a,
                                        const BlockBounds& bounds, KeyBlocks blocks, int head, int first,
                                        int batch) {
  const int group = warpgroup_index() - 1, warp = int(threadIdx.x) / 32 % 4, lane = int(threadIdx.x) % 32;
  const int row0 = 64 * group + 16 * warp;
  const LaneRanges ranges(a.ranges, int64_t(batch) * a.num_queries, first + row0, a.num_queries);
  const uint64_t q = shared.q.descriptor(64 * group);
  OnlineSoftmax softmax;
  float out[kDim / 8][4] = {}, s[kKeys / 8][4], shrink[2];
  uint32_t p[kKeys / 16][4];
  const auto exponentiate = [&](int block) {
    const int key0 = block * kKeys;
    if (!bounds.all_read(key0, key0 + kKeys)) mask_scores(s, ranges, key0);
    softmax.update(s, a.scale_log2, shrink);
  };

  shared.q_full.wait(0);
  if (blocks.begin < blocks.end) {
    RingPosition<kStages> values, keys;  // of P·V, which is one block behind the scores
    shared.k_full[0].wait(0);
    wgmma_fence();
    start_transposed<kDim, kWgmmaRows, kKeys>(s, q, shared.k[0].descriptor());
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_fence_operand(s);
    if (lane == 0) shared.k_empty[0].arrive();
    exponentiate(blocks.begin);
    to_a_fragments(p, s);
    keys.advance();
    if (group == 1 && blocks.begin + 1 < blocks.end) give_turn(group);

    for (int block = blocks.begin + 1; block < blocks.end; ++block) {
      shared.k_full[keys.stage].wait(keys.parity);
      await_turn(group);
      wgmma_fence_operand(p);
      wgmma_fence();
      start_transposed<kDim, kWgmmaRows, kKeys>(s, q, shared.k[keys.stage].descriptor());
      wgmma_commit();
      shared.v_full[values.stage].wait(values.parity);
      wgmma_fence();
      start_add(out, p, shared.v[values.stage].descriptor_rows());
      wgmma_commit();
      if (group == 0 || block + 1 < blocks.end) give_turn(group);
      wgmma_wait<1>();
      wgmma_fence_operand(s);
      if (lane == 0) shared.k_empty[keys.stage].arrive();
      exponentiate(block);
      wgmma_wait<0>();
      wgmma_fence_operand(out);
      if (lane == 0) shared.v_empty[values.stage].arrive();
      scale_rows(out, shrink);
      to_a_fragments(p, s);
      keys.advance();
      values.advance();
    }
    shared.v_full[values.stage].wait(values.parity);
    wgmma_fence_operand(p);
    wgmma_fence();
    start_add(out, p, shared.v[values.stage].descriptor_rows());
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_fence_operand(out);
  }

  float factor[2], lse[2];
  softmax.finish(a.scale_log2, factor, lse);
  named_barrier_sync(3 + group, 128);  // this warpgroup's products no longer read its queries
  store_warp_rows(shared.q, row0, a.out, batch, a.num_queries, a.heads, head, first + row0, out, factor);
  if (lane % 4 != 0) return;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int query = first + row0 + lane / 4 + 8 * half;
    if (query < a.num_queries) a.lse[(int64_t(batch) * a.num_queries + query) * a.heads + head] = lse[half];
  }
}

template <int kDim, int kKeys>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    fwd_kernel(const AttentionArgsBf16 a, const __grid_constant__ CUtensorMap q_map,
               const __grid_constant__ CUtensorMap k_map, const __grid_constant__ CUtensorMap v_map) {
  extern __shared__ uint8_t raw[];
  auto& shared = aligned_shared<Shared<kDim, kKeys>>(raw);
  // The last queries first: with a causal mask they are the longest.
  const int block = gridDim.x - 1 - blockIdx.x, head = blockIdx.y, batch = blockIdx.z;
  const BlockBounds bounds =
      joined_bounds<2>(a.bounds + int64_t(batch) * a.num_bounds, 2 * block, a.num_bounds);
  KeyBlocks blocks{0, 0};
  if (bounds.read_begin < bounds.read_end)
    blocks = {bounds.read_begin / kKeys, (bounds.read_end + kKeys - 1) / kKeys};
  if (threadIdx.x == 0) {
    shared.q_full.init(1);
    for (int i = 0; i < kStages; ++i) {
      shared.k_full[i].init(1);
      shared.v_full[i].init(1);
      shared.k_empty[i].init(kConsumerWarps);
      shared.v_empty[i].init(kConsumerWarps);
    }
    fence_barrier_init();
  }
  __syncthreads();
  if (warpgroup_index() == 0) {
    registers_decrease<kProducerRegisters>();
    if (threadIdx.x == 0)
      produce(shared, q_map, k_map, v_map, blocks, head, head / (a.heads / a.kv_heads), block * kWgmmaRows,
              batch);
  } else {
    registers_increase<kConsumerRegisters>();
    consume(shared, a, bounds, blocks, head, block * kWgmmaRows, batch);
  }
}

template <int kDim, int kKeys>
void launch(cudaStream_t stream, const AttentionArgsBf16& a) {
  constexpr auto* kernel = fwd_kernel<kDim, kKeys>;
  constexpr int kSharedBytes = shared_bytes_of<Shared<kDim, kKeys>>();
  static const bool ready = (allow_shared_memory(kernel, kSharedBytes), true);
  (void)ready;
  const auto map = [&](const HeadRows<const bf16>& rows, int length, int heads, int box_rows) {
    return head_rows_map(rows.data, rows.stride, a.batch, length, heads, kDim, box_rows);
  };
  const dim3 grid(ceil_div(a.num_queries, kWgmmaRows), a.heads, a.batch);
  kernel<<<grid, kWgmmaThreads, kSharedBytes, stream>>>(a, map(a.q, a.num_queries, a.heads, kWgmmaRows),
                                                        map(a.k, a.num_keys, a.kv_heads, kKeys),
                                                        map(a.v, a.num_keys, a.kv_heads, kKeys));
  check_launch("softmax_attention_wgmma_fwd");
}

}  // namespace

void attention_fwd_wgmma(cudaStream_t stream, const AttentionArgsBf16& args) {
  switch (args.key_width) {
    case 64:
      return launch<64, 128>(stream, args);
    case 128:
      return launch<128, 128>(stream, args);
    case 256:
      return launch<256, 64>(stream, args);
    default:
      SPANWISE_FAIL("attention_fwd_wgmma supports head dims 64, 128 and 256, got {}", args.key_width);
  }
}

}  // namespace spanwise::cuda
