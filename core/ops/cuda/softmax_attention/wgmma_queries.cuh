#pragma once
// What the backward kernels that own a block of keys share: blocks of 64 queries come by in a ring of stages,
// those of every head of the group that read some of the keys.

#include "core/ops/cuda/softmax_attention/wgmma.cuh"

namespace spanwise::cuda {

constexpr int kQueries = kBoundsQueries;

template <int kDim, int kStages>
struct QueryRing {
  SwizzledRows<kQueries, kDim> q[kStages], dout[kStages];
  alignas(16) float lse[kStages][kQueries], delta[kStages][kQueries];
  struct Step {
    int query0;  ///< −1: there are no more
    int masked;  ///< some query does not read all the keys
  } step[kStages];
  MBarrier full[kStages], empty[kStages];

  /// One thread. Every consuming warp arrives at `empty`.
  __device__ __forceinline__ void init() {
    for (int i = 0; i < kStages; ++i) {
      full[i].init(1);
      empty[i].init(kConsumerWarps * kWarpArrivals);
    }
  }
};

struct BackwardMaps {
  CUtensorMap q, k, v, dout;
};
/// q and dout in boxes of query_rows, k and v of key_rows.
template <int kDim>
BackwardMaps backward_maps(const AttentionArgsBf16& a, int query_rows, int key_rows) {
  const auto map = [&](const HeadRows<const bf16>& rows, int length, int heads, int box_rows) {
    return head_rows_map(rows.data, rows.stride, a.batch, length, heads, kDim, box_rows);
  };
  return {map(a.q, a.num_queries, a.heads, query_rows), map(a.k, a.num_keys, a.kv_heads, key_rows),
          map(a.v, a.num_keys, a.kv_heads, key_rows), map(a.dout, a.num_queries, a.heads, query_rows)};
}

/// Keys [first, first + kRows) of one head of one row.
struct KeyPlace {
  int first, kv_head, batch;
};

/// visit(head, block of queries, masked) for every step of kRows keys, in order. All lanes of a warp.
template <int kRows, class F>
__device__ __forceinline__ void for_each_step(const AttentionArgsBf16& a, const KeyPlace& place, F&& visit) {
  const int group = a.heads / a.kv_heads;
  for (int head = place.kv_head * group; head < (place.kv_head + 1) * group; ++head) {
    ReadingBlocks blocks(a.bounds + int64_t(place.batch) * a.num_bounds, a.num_bounds, place.first,
                         place.first + kRows);
    for (int block = blocks.next(); block >= 0; block = blocks.next()) visit(head, block, blocks.masked());
  }
}

/// Loads keys and values, then every step. All lanes of one warp.
template <int kRows, int kDim, int kStages>
__device__ __forceinline__ void produce_steps(SwizzledRows<kRows, kDim>& k, SwizzledRows<kRows, kDim>& v,
                                              MBarrier& keys_full, QueryRing<kDim, kStages>& queries,
                                              const BackwardMaps& maps, const AttentionArgsBf16& a,
                                              const KeyPlace& place) {
  const bool elected = threadIdx.x % 32 == 0;
  if (elected) {
    keys_full.arrive_expecting(k.kBytes + v.kBytes);
    k.load(maps.k, keys_full, place.kv_head, place.first, place.batch);
    v.load(maps.v, keys_full, place.kv_head, place.first, place.batch);
  }
  RingPosition<kStages> ring;
  for_each_step<kRows>(a, place, [&](int head, int block, bool masked) {
    if (elected) {
      const int stage = ring.stage, query0 = block * kQueries;
      const int64_t statistics = (int64_t(place.batch) * a.heads + head) * a.padded + query0;
      constexpr int kStatisticsBytes = kQueries * int(sizeof(float));
      MBarrier& full = queries.full[stage];
      queries.empty[stage].wait(ring.parity ^ 1);
      queries.step[stage] = {query0, masked};
      full.expect(2 * queries.q[0].kBytes + 2 * kStatisticsBytes);
      queries.q[stage].load(maps.q, full, head, query0, place.batch);
      queries.dout[stage].load(maps.dout, full, head, query0, place.batch);
      load_bytes(queries.lse[stage], a.padded_lse + statistics, kStatisticsBytes, full);
      load_bytes(queries.delta[stage], a.delta + statistics, kStatisticsBytes, full);
      full.copies_started();
    }
    ring.advance();
  });
  if (elected) {
    queries.empty[ring.stage].wait(ring.parity ^ 1);
    queries.step[ring.stage].query0 = -1;
    queries.full[ring.stage].arrive();
  }
}

}  // namespace spanwise::cuda
