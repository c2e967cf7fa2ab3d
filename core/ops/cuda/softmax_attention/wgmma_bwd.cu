// dq, dk and dv in one kernel with wgmma and TMA: as wgmma_dkdv.cu, and the two warpgroups
// exchange dS through shared memory for the block's share of dq, [64 queries, 128 keys]·[128 keys, kDim], of
// which each computes half of the columns, a step later. Two more warps of the first warpgroup add the shares
// to dq_sums in global memory when it is their turn: a block of queries takes them from its last block of
// keys to its first. Under a causal mask blocks of keys that start together reach a block of queries in that
// order. Nobody waits for a block of keys that has not started: they start in the order of their tickets.

#include "core/ops/cuda/softmax_attention/wgmma_queries.cuh"

namespace spanwise::cuda {

namespace {

constexpr int kDim = 128, kStages = 2, kExchanges = 3, kWriters = 2;
constexpr int kHalfFloats = kQueries * kDim / 2;  ///< a warpgroup's share of dq

struct Shared {
  SwizzledRows<kWgmmaRows, kDim> k, v;
  QueryRing<kDim, kStages> queries;
  SwizzledRows<kQueries, kWgmmaRows> ds[kExchanges];  ///< [queries, keys]
  float dq[2 * kHalfFloats];                          ///< [warpgroup][8 n-tiles][128 threads][4]
  MBarrier keys_full, ds_full[kExchanges];
  MBarrier dq_full[kWriters], dq_empty;  ///< each writer has its dq_full
  int ticket;
};

__device__ __forceinline__ int load_acquire(const int* from) {
  int value;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}
__device__ __forceinline__ void store_release(int* to, int value) {
  asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}

// All lanes of one warp; the writers take turns, so that one's addition arrives while the other waits for
// its turn. turns[block] counts the blocks of keys that have added to a block of queries.
__device__ __forceinline__ void add_to_dq(Shared& shared, const AttentionArgsBf16& a, const KeyPlace& place,
                                          int writer) {
  const bool elected = threadIdx.x % 32 == 0;
  int step = 0;
  for_each_step<kWgmmaRows>(a, place, [&](int head, int block, bool) {
    if (elected && step % kWriters == writer) {
      const int64_t at = (int64_t(place.batch) * a.heads + head) * (a.padded / kQueries) + block;
      const BlockBounds bounds = a.bounds[int64_t(place.batch) * a.num_bounds + block];
      const int before = (bounds.read_end - 1) / kWgmmaRows - place.first / kWgmmaRows;
      float* sums = a.dq_sums + at * 2 * kHalfFloats;
      int* turn = a.turns + 1 + at;
      if (before > 0) {
        while (load_acquire(turn) != before) {
        }
        asm volatile("fence.proxy.async.global;" ::: "memory");
      }
      shared.dq_full[writer].wait(step / kWriters % 2);
      if (before == 0) {
        store_bytes(sums, shared.dq, int(sizeof(shared.dq)));
      } else {
        add_floats(sums, shared.dq, int(sizeof(shared.dq)));
      }
      store_commit();
      store_wait_read();
      shared.dq_empty.arrive();
      store_wait();
      store_release(turn, before + 1);
    }
    ++step;
  });
}

/// Four 8x8 matrices, transposed; lane l gives the address of row l % 8 of the transpose of matrix l / 8.
__device__ __forceinline__ void store_matrix_trans(uint32_t address, const uint32_t (&a)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])
               : "memory");
}

/// This warp's 16 keys of a warpgroup's 64, as columns of ds [queries, keys].
__device__ __forceinline__ void store_transposed(SwizzledRows<kQueries, kWgmmaRows>& ds,
                                                 const uint32_t (&a)[kQueries / 16][4], int group, int warp,
                                                 int lane) {
#pragma unroll
  for (int i = 0; i < kQueries / 16; ++i) {
    const int query = 16 * i + lane / 16 * 8 + lane % 8, piece = 2 * warp + lane / 8 % 2;
    store_matrix_trans(shared_address(&ds.data[group][query][(piece ^ query % 8) * 8]), a[i]);
  }
}

/// dq [64, columns 64 group..] = ds · k; started, not awaited.
__device__ __forceinline__ void start_dq(float (&dq)[kDim / 16][4],
                                         const SwizzledRows<kQueries, kWgmmaRows>& ds,
                                         const SwizzledRows<kWgmmaRows, kDim>& k, int group) {
  const uint64_t a = ds.descriptor();
  const uint64_t b = wgmma_descriptor_rows(shared_address(k.data[group]), int(sizeof(k.data[0])));
  wgmma_fence();
#pragma unroll
  for (int i = 0; i < kWgmmaRows; i += 16) {
    const int within = i % kSwizzleColumns * 2 + i / kSwizzleColumns * kQueries * 128;
    wgmma<Major::kK, Major::kMN>(dq, a + (within >> 4), b + (i * 128 >> 4), i > 0);
  }
}

__device__ __forceinline__ void consume(Shared& shared, const AttentionArgsBf16& a, const KeyPlace& place) {
  auto& queries = shared.queries;
  const int group = warpgroup_index() - 1, warp = int(threadIdx.x) / 32 % 4, lane = int(threadIdx.x) % 32;
  const int row0 = 64 * group + 16 * warp, key = place.first + row0 + lane / 4;
  const int2* ranges = a.ranges + int64_t(place.batch) * a.num_queries;
  const uint64_t k = shared.k.descriptor(64 * group), v = shared.v.descriptor(64 * group);
  float dk[kDim / 8][4] = {}, dv[kDim / 8][4] = {}, dq[kDim / 16][4];
  float s[kQueries / 8][4], dp[kQueries / 8][4];
  uint32_t p[kQueries / 16][4], ds[kQueries / 16][4];

  RingPosition<kStages> ring;
  RingPosition<kExchanges> exchange;
  int step = 0;
  // The share of the step before: its dS, the wait for the place that shares pass through, and its writer.
  const auto start_last_dq = [&] {
    const bool wrapped = exchange.stage == 0;
    const int last = wrapped ? kExchanges - 1 : exchange.stage - 1;
    // In the first step there is none, and nobody reads what the product gives.
    if (step > 0) shared.ds_full[last].wait(exchange.parity ^ int(wrapped));
    start_dq(dq, shared.ds[last], shared.k, group);
    wgmma_commit();
  };
  const auto store_last_dq = [&] {
    shared.dq_empty.wait(step & 1);
    float4* share = reinterpret_cast<float4*>(shared.dq + group * kHalfFloats) + threadIdx.x % 128;
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) share[i * 128] = {dq[i][0], dq[i][1], dq[i][2], dq[i][3]};
  };
  const auto last_full = [&]() -> MBarrier& { return shared.dq_full[(step - 1) % kWriters]; };
  shared.keys_full.wait(0);
  for (;; ring.advance(), exchange.advance(), ++step) {
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
    // Free: the product that read it, two steps ago, was over before its warpgroup gave that step's dS, which
    // this one took in the last step.
    store_transposed(shared.ds[exchange.stage], ds, group, warp, lane);
    pin_registers(ds);
    wgmma_fence();
    start_add(dk, ds, queries.q[stage].descriptor_rows());
    wgmma_commit();
    start_last_dq();
    wgmma_wait<1>();
    pin_registers(dk);
    pin_registers(dv);
    if (arrives_for_warp(lane)) queries.empty[stage].arrive();
    wgmma_wait<0>();
    pin_registers(dq);
    if (step > 0) store_last_dq();
    fence_async_proxy();
    __syncwarp();
    if (arrives_for_warp(lane)) {
      shared.ds_full[exchange.stage].arrive();
      if (step > 0) last_full().arrive();
    }
  }
  if (step > 0) {
    start_last_dq();
    wgmma_wait<0>();
    pin_registers(dq);
    store_last_dq();
    fence_async_proxy();
    __syncwarp();
    if (arrives_for_warp(lane)) last_full().arrive();
  }

  const float dk_factor[2] = {a.scale, a.scale}, dv_factor[2] = {1.0f, 1.0f};
  named_barrier_sync(3, 256);  // no product reads keys and values any more
  const auto store = [&](SwizzledRows<kWgmmaRows, kDim>& tile, bf16* to, const float(&x)[kDim / 8][4],
                         const float(&factor)[2]) {
    store_warp_rows(tile, row0, to, place.batch, a.num_keys, a.kv_heads, place.kv_head, place.first + row0, x,
                    factor);
  };
  store(shared.k, a.dk, dk, dk_factor);
  store(shared.v, a.dv, dv, dv_factor);
}

__global__ void __launch_bounds__(kWgmmaThreads, 1)
    bwd_kernel(const AttentionArgsBf16 a, const __grid_constant__ BackwardMaps maps) {
  extern __shared__ uint8_t raw[];
  auto& shared = aligned_shared<Shared>(raw);
  if (threadIdx.x == 0) {
    shared.keys_full.init(1);
    shared.queries.init();
    for (int i = 0; i < kExchanges; ++i) shared.ds_full[i].init(kConsumerWarps * kWarpArrivals);
    for (int i = 0; i < kWriters; ++i) shared.dq_full[i].init(kConsumerWarps * kWarpArrivals);
    shared.dq_empty.init(1);
    fence_barrier_init();
    shared.ticket = atomicAdd(a.turns, 1);
  }
  __syncthreads();
  const int blocks = int(ceil_div(a.num_keys, kWgmmaRows)), ticket = shared.ticket;
  const KeyPlace place{(blocks - 1 - ticket % blocks) * kWgmmaRows, ticket / blocks % a.kv_heads,
                       ticket / blocks / a.kv_heads};
  if (warpgroup_index() == 0) {
    registers_decrease<kProducerRegisters>();
    const int warp = int(threadIdx.x) / 32;
    if (warp == 0) {
      produce_steps(shared.k, shared.v, shared.keys_full, shared.queries, maps, a, place);
    } else if (warp <= kWriters) {
      add_to_dq(shared, a, place, warp - 1);
    }
  } else {
    registers_increase<kConsumerRegisters>();
    consume(shared, a, place);
  }
}

// dq from dq_sums: one thread has what the consumers' thread of the same index had.
__global__ void __launch_bounds__(256) dq_kernel(const AttentionArgsBf16 a) {
  const int block = blockIdx.x, head = blockIdx.y, batch = blockIdx.z;
  const int group = threadIdx.x / 128, thread = threadIdx.x % 128, lane = threadIdx.x % 32;
  const int64_t at = (int64_t(batch) * a.heads + head) * (a.padded / kQueries) + block;
  const BlockBounds bounds = a.bounds[int64_t(batch) * a.num_bounds + block];
  const bool reads = bounds.read_begin < bounds.read_end;
  const float4* share = reinterpret_cast<const float4*>(a.dq_sums + (2 * at + group) * kHalfFloats) + thread;
  const int query = block * kQueries + thread / 32 * 16 + lane / 4;
#pragma unroll
  for (int i = 0; i < kDim / 16; ++i) {
    const float4 x = reads ? share[i * 128] : float4{0, 0, 0, 0};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (query + 8 * half >= a.num_queries) continue;
      bf16* row = a.dq + ((int64_t(batch) * a.num_queries + query + 8 * half) * a.heads + head) * kDim;
      *reinterpret_cast<uint32_t*>(row + group * 64 + 8 * i + 2 * (lane % 4)) =
          half == 0 ? pack_bf16(x.x * a.scale, x.y * a.scale) : pack_bf16(x.z * a.scale, x.w * a.scale);
    }
  }
}

}  // namespace

void attention_bwd_wgmma(cudaStream_t stream, const AttentionArgsBf16& a) {
  SPANWISE_CHECK(a.key_width == kDim, "attention_bwd_wgmma supports head dim {}, got {}", kDim, a.key_width);
  constexpr int kSharedBytes = shared_bytes_of<Shared>();
  static const bool ready = (allow_shared_memory(bwd_kernel, kSharedBytes), true);
  (void)ready;
  const int64_t turns = 1 + int64_t(a.batch) * a.heads * (a.padded / kQueries);
  SPANWISE_CUDA(cudaMemsetAsync(a.turns, 0, size_t(turns) * sizeof(int), stream));
  const int64_t blocks = ceil_div(a.num_keys, kWgmmaRows) * a.kv_heads * a.batch;
  bwd_kernel<<<blocks, kWgmmaThreads, kSharedBytes, stream>>>(a,
                                                              backward_maps<kDim>(a, kQueries, kWgmmaRows));
  check_launch("softmax_attention_wgmma_bwd");
  dq_kernel<<<dim3(a.num_bounds, a.heads, a.batch), 256, 0, stream>>>(a);
  check_launch("softmax_attention_wgmma_bwd_dq");
}

}  // namespace spanwise::cuda
