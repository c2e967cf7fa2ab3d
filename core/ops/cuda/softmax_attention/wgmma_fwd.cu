// Softmax attention forward with wgmma and TMA: blocks that stay take tiles of 128 queries of one head by
// ticket, and load the next tile's keys during this one's last products. Each of two warpgroups computes the
// next block's scores and this block's P·V while it exponentiates, and the two take turns at issuing
// products, so that one's exponentials run under the other's products.

#include "core/ops/cuda/softmax_attention/wgmma.cuh"

namespace spanwise::cuda {

namespace {

constexpr int kStages = 2;

/// What output passes through. Queries of 256 columns leave no room: there it is their tile.
template <int kDim>
struct OutTile {
  static constexpr bool kApart = true;
  SwizzledRows<kWgmmaRows, kDim> out;
};
template <>
struct OutTile<256> {
  static constexpr bool kApart = false;
};

template <int kDim, int kKeys>
struct Shared : OutTile<kDim> {
  SwizzledRows<kWgmmaRows, kDim> q;
  SwizzledRows<kKeys, kDim> k[kStages], v[kStages];
  MBarrier q_full, q_empty, k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages];
  int ticket;  ///< of q
  __device__ __forceinline__ SwizzledRows<kWgmmaRows, kDim>& out_tile() {
    if constexpr (OutTile<kDim>::kApart) {
      return this->out;
    } else {
      return q;
    }
  }
};

/// 128 queries of one head, and the blocks [begin, end) of keys that they read.
struct Tile {
  int first, head, batch, begin, end;
  BlockBounds bounds;
};
template <int kKeys>
__device__ __forceinline__ Tile tile_of(const AttentionArgsBf16& a, int ticket) {
  const int blocks = (a.num_queries + kWgmmaRows - 1) / kWgmmaRows;
  // The last queries first: with a causal mask they are the longest.
  const int block = blocks - 1 - ticket % blocks, batch = ticket / blocks / a.heads;
  Tile tile{block * kWgmmaRows,
            ticket / blocks % a.heads,
            batch,
            0,
            0,
            joined_bounds<2>(a.bounds + int64_t(batch) * a.num_bounds, 2 * block, a.num_bounds)};
  if (tile.bounds.read_begin < tile.bounds.read_end) {
    tile.begin = tile.bounds.read_begin / kKeys;
    tile.end = (tile.bounds.read_end + kKeys - 1) / kKeys;
  }
  return tile;
}

// One thread.
template <int kDim, int kKeys>
__device__ __forceinline__ void produce(Shared<kDim, kKeys>& shared, const CUtensorMap& q,
                                        const CUtensorMap& k, const CUtensorMap& v,
                                        const AttentionArgsBf16& a, int num_tiles) {
  RingPosition<kStages> ring;
  RingPosition<1> queries;
  for (;; queries.advance()) {
    const int ticket = atomicAdd(a.turns, 1);
    shared.q_empty.wait(queries.parity ^ 1);
    shared.ticket = ticket;
    if (ticket >= num_tiles) break;
    const Tile tile = tile_of<kKeys>(a, ticket);
    const int kv_head = tile.head / (a.heads / a.kv_heads);
    shared.q_full.arrive_expecting(shared.q.kBytes);
    shared.q.load(q, shared.q_full, tile.head, tile.first, tile.batch);
#pragma unroll 1  // few registers
    for (int block = tile.begin; block < tile.end; ++block, ring.advance()) {
      const int stage = ring.stage;
      shared.k_empty[stage].wait(ring.parity ^ 1);
      shared.k_full[stage].arrive_expecting(shared.k[0].kBytes);
      shared.k[stage].load(k, shared.k_full[stage], kv_head, block * kKeys, tile.batch);
      shared.v_empty[stage].wait(ring.parity ^ 1);
      shared.v_full[stage].arrive_expecting(shared.v[0].kBytes);
      shared.v[stage].load(v, shared.v_full[stage], kv_head, block * kKeys, tile.batch);
    }
  }
  shared.q_full.arrive();
}

// Named barriers 1 and 2: a warpgroup's turn to issue products.
__device__ __forceinline__ void await_turn(int group) {
  named_barrier_sync(1 + group, 256);
}
__device__ __forceinline__ void give_turn(int group) {
  named_barrier_arrive(2 - group, 256);
}

template <int kDim, int kKeys>
__device__ __forceinline__ void store_tile(Shared<kDim, kKeys>& shared, const AttentionArgsBf16& a,
                                           const Tile& tile, int row0, const float (&out)[kDim / 8][4],
                                           OnlineSoftmax& softmax) {
  int lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  float factor[2], lse[2];
  softmax.finish(a.scale_log2, factor, lse);
  store_warp_rows(shared.out_tile(), row0, a.out, tile.batch, a.num_queries, a.heads, tile.head,
                  tile.first + row0, out, factor);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int query = tile.first + row0 + lane / 4 + 8 * half;
    if (lane % 4 == 0 && query < a.num_queries)
      a.lse[(int64_t(tile.batch) * a.num_queries + query) * a.heads + tile.head] = lse[half];
  }
}

template <int kDim, int kKeys>
__device__ __forceinline__ void consume(Shared<kDim, kKeys>& shared, const AttentionArgsBf16& a,
                                        int num_tiles) {
  const int group = warpgroup_index() - 1, warp = int(threadIdx.x) / 32 % 4, lane = int(threadIdx.x) % 32;
  const int row0 = 64 * group + 16 * warp;
  constexpr bool kOutApart = OutTile<kDim>::kApart;
  const uint64_t q = shared.q.descriptor(64 * group);
  RingPosition<kStages> values, keys;  // of P·V, which is one block behind the scores
  RingPosition<1> queries;
  for (;; queries.advance()) {
    shared.q_full.wait(queries.parity);
    const int ticket = __shfl_sync(0xffffffffu, shared.ticket, 0);
    if (ticket >= num_tiles) break;
    const Tile tile = tile_of<kKeys>(a, ticket);
    const LaneRanges ranges(a.ranges, int64_t(tile.batch) * a.num_queries, tile.first + row0, a.num_queries);
    OnlineSoftmax softmax;
    float out[kDim / 8][4] = {}, s[kKeys / 8][4], shrink[2];
    uint32_t p[kKeys / 16][4];
    const auto exponentiate = [&](int block) {
      const int key0 = block * kKeys;
      if (!tile.bounds.all_read(key0, key0 + kKeys)) mask_scores(s, ranges, key0);
      softmax.update(s, a.scale_log2, shrink);
    };
    const auto release_scores = [&](int block) {
      if (arrives_for_warp(lane)) {
        shared.k_empty[keys.stage].arrive();
        if (kOutApart && block + 1 == tile.end) shared.q_empty.arrive();
      }
      keys.advance();
    };

    if (tile.begin < tile.end) {
      shared.k_full[keys.stage].wait(keys.parity);
      wgmma_fence();
      start_transposed<kDim, kWgmmaRows, kKeys>(s, q, shared.k[keys.stage].descriptor());
      wgmma_commit();
      wgmma_wait<0>();
      pin_registers(s);
      release_scores(tile.begin);
      exponentiate(tile.begin);
      to_a_fragments(p, s);
      if (group == 1 && tile.begin + 1 < tile.end) give_turn(group);

      for (int block = tile.begin + 1; block < tile.end; ++block) {
        shared.k_full[keys.stage].wait(keys.parity);
        await_turn(group);
        pin_registers(p);
        wgmma_fence();
        start_transposed<kDim, kWgmmaRows, kKeys>(s, q, shared.k[keys.stage].descriptor());
        wgmma_commit();
        shared.v_full[values.stage].wait(values.parity);
        wgmma_fence();
        start_add(out, p, shared.v[values.stage].descriptor_rows());
        wgmma_commit();
        if (group == 0 || block + 1 < tile.end) give_turn(group);
        wgmma_wait<1>();
        pin_registers(s);
        release_scores(block);
        exponentiate(block);
        wgmma_wait<0>();
        pin_registers(out);
        if (arrives_for_warp(lane)) shared.v_empty[values.stage].arrive();
        scale_rows(out, shrink);
        to_a_fragments(p, s);
        values.advance();
      }
      shared.v_full[values.stage].wait(values.parity);
      pin_registers(p);
      wgmma_fence();
      start_add(out, p, shared.v[values.stage].descriptor_rows());
      wgmma_commit();
      wgmma_wait<0>();
      pin_registers(out);
      if (arrives_for_warp(lane)) shared.v_empty[values.stage].arrive();
      values.advance();
    } else if (kOutApart && arrives_for_warp(lane)) {
      shared.q_empty.arrive();
    }
    if (!kOutApart)
      named_barrier_sync(3 + group, 128);  // this warpgroup's products no longer read its queries
    store_tile(shared, a, tile, row0, out, softmax);
    if (!kOutApart) {
      fence_async_proxy();
      __syncwarp();
      if (arrives_for_warp(lane)) shared.q_empty.arrive();
    }
  }
}

template <int kDim, int kKeys>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    fwd_kernel(const AttentionArgsBf16 a, const __grid_constant__ CUtensorMap q_map,
               const __grid_constant__ CUtensorMap k_map, const __grid_constant__ CUtensorMap v_map,
               int num_tiles) {
  extern __shared__ uint8_t raw[];
  auto& shared = aligned_shared<Shared<kDim, kKeys>>(raw);
  if (threadIdx.x == 0) {
    shared.q_full.init(1);
    shared.q_empty.init(kConsumerWarps * kWarpArrivals);
    for (int i = 0; i < kStages; ++i) {
      shared.k_full[i].init(1);
      shared.v_full[i].init(1);
      shared.k_empty[i].init(kConsumerWarps * kWarpArrivals);
      shared.v_empty[i].init(kConsumerWarps * kWarpArrivals);
    }
    fence_barrier_init();
  }
  __syncthreads();
  if (warpgroup_index() == 0) {
    registers_decrease<kProducerRegisters>();
    if (threadIdx.x == 0) produce(shared, q_map, k_map, v_map, a, num_tiles);
  } else {
    registers_increase<kConsumerRegisters>();
    consume(shared, a, num_tiles);
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
  const int64_t num_tiles = ceil_div(a.num_queries, kWgmmaRows) * a.heads * a.batch;
  SPANWISE_CUDA(cudaMemsetAsync(a.turns, 0, sizeof(int), stream));
  kernel<<<std::min<int64_t>(num_tiles, a.num_processors), kWgmmaThreads, kSharedBytes, stream>>>(
      a, map(a.q, a.num_queries, a.heads, kWgmmaRows), map(a.k, a.num_keys, a.kv_heads, kKeys),
      map(a.v, a.num_keys, a.kv_heads, kKeys), int(num_tiles));
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
