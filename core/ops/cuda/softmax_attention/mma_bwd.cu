// Softmax attention backward with mma.sync, in two kernels without atomics, each with its sums in registers:
// one walks over queries for a block of keys (dk, dv), one over keys for a block of queries (dq). The scores
// are computed in both. At head dim 256 the sums of 16 keys do not fit a warp: two warps share the rows, each
// with half of the columns, and both compute the scores.

#include "core/ops/cuda/softmax_attention/mma.cuh"

namespace spanwise::cuda {

namespace {

template <int kDim>
struct Traits {
  static constexpr int kSplit = kDim > 128 ? 2 : 1;  ///< warps that share rows
  static constexpr int kThreads = 128 * kSplit;
  static constexpr int kColumns = kDim / kSplit;
  static constexpr int kStages = kDim > 128 ? 1 : 2;
  static constexpr int kTile = kMmaRows * kDim;
  static constexpr int kSharedBytes =
      (2 + 2 * kStages) * kTile * int(sizeof(bf16)) + kStages * 2 * kMmaRows * int(sizeof(float));
};

template <int kDim>
__global__ void __launch_bounds__(Traits<kDim>::kThreads) dkdv_kernel(const AttentionArgsBf16 a) {
  using T = Traits<kDim>;
  extern __shared__ __align__(128) bf16 shared[];
  const SwizzledTile<kDim> k_tile{shared}, v_tile{shared + T::kTile};
  const auto q_tile = [&](int stage) { return SwizzledTile<kDim>{shared + (2 + stage) * T::kTile}; };
  const auto dout_tile = [&](int stage) {
    return SwizzledTile<kDim>{shared + (2 + T::kStages + stage) * T::kTile};
  };
  // Log-sum-exp and δ of a stage's queries.
  float* statistics = reinterpret_cast<float*>(shared + (2 + 2 * T::kStages) * T::kTile);

  const int first = blockIdx.x * kMmaRows, kv_head = blockIdx.y, batch = blockIdx.z;
  const int warp = threadIdx.x / 32, row0 = warp % 4 * 16, col0 = warp / 4 * T::kColumns;
  const int group = a.heads / a.kv_heads, key = first + row0 + int(threadIdx.x) % 32 / 4;

  const auto load_queries = [&](int stage, int head, int block) {
    const int query0 = block * kMmaRows;
    load_rows<kDim, T::kThreads>(q_tile(stage), a.q, batch, head, query0, a.num_queries);
    load_rows<kDim, T::kThreads>(dout_tile(stage), a.dout, batch, head, query0, a.num_queries);
    if (threadIdx.x < 2 * kMmaRows / 4) {
      const float* from = threadIdx.x < kMmaRows / 4 ? a.padded_lse : a.delta;
      const int at = threadIdx.x * 4;
      copy_async_16(statistics + stage * 2 * kMmaRows + at,
                    from + (int64_t(batch) * a.heads + head) * a.padded + query0 + at % kMmaRows);
    }
  };
  load_rows<kDim, T::kThreads>(k_tile, a.k, batch, kv_head, first, a.num_keys);
  load_rows<kDim, T::kThreads>(v_tile, a.v, batch, kv_head, first, a.num_keys);
  copy_async_commit();

  float dk[T::kColumns / 8][4] = {}, dv[T::kColumns / 8][4] = {};
  const auto add = [&](int stage, int block, bool masked) {
    float s[kMmaRows / 8][4], dp[kMmaRows / 8][4];
    uint32_t fragments[kMmaRows / 16][4];
    const float* lse = statistics + stage * 2 * kMmaRows;
    multiply_transposed<kDim>(s, k_tile, row0, q_tile(stage));
    if (masked) {
      const int query0 = block * kMmaRows;
      mask_columns(s, a.ranges + int64_t(batch) * a.num_queries + query0, a.num_queries - query0, key);
    }
    probabilities_of_columns(s, a.scale_log2, lse);
    to_a_fragments(fragments, s);
    multiply_add<kDim>(dv, fragments, dout_tile(stage), col0);
    multiply_transposed<kDim>(dp, v_tile, row0, dout_tile(stage));
    score_gradient_of_columns(dp, s, lse + kMmaRows);
    to_a_fragments(fragments, dp);
    multiply_add<kDim>(dk, fragments, q_tile(stage), col0);
  };

  // One group of copies a step; with two stages the next step's are under way during this one's products.
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    ReadingBlocks blocks(a.bounds + int64_t(batch) * a.num_bounds, a.num_bounds, first, first + kMmaRows);
    int block = blocks.next(), stage = 0;
    bool masked = blocks.masked();
    if (block >= 0) load_queries(0, head, block);
    copy_async_commit();
    while (block >= 0) {
      const int next = blocks.next();
      copy_async_wait<0>();
      __syncthreads();
      if (T::kStages == 2 && next >= 0) load_queries(1 - stage, head, next);
      copy_async_commit();
      add(stage, block, masked);
      if (T::kStages == 1) {
        __syncthreads();
        if (next >= 0) load_queries(0, head, next);
        copy_async_commit();
      } else {
        stage = 1 - stage;
      }
      block = next;
      masked = blocks.masked();
    }
    __syncthreads();  // before the next head's copies
  }
  copy_async_wait<0>();

  const float dk_factor[2] = {a.scale, a.scale}, dv_factor[2] = {1.0f, 1.0f};
  store_rows<kDim>(a.dk, batch, a.num_keys, a.kv_heads, kv_head, first + row0, col0, dk, dk_factor);
  store_rows<kDim>(a.dv, batch, a.num_keys, a.kv_heads, kv_head, first + row0, col0, dv, dv_factor);
}

template <int kDim>
__global__ void __launch_bounds__(Traits<kDim>::kThreads) dq_kernel(const AttentionArgsBf16 a) {
  using T = Traits<kDim>;
  extern __shared__ __align__(128) bf16 shared[];
  const SwizzledTile<kDim> q_tile{shared}, dout_tile{shared + T::kTile};
  const auto k_tile = [&](int stage) { return SwizzledTile<kDim>{shared + (2 + stage) * T::kTile}; };
  const auto v_tile = [&](int stage) {
    return SwizzledTile<kDim>{shared + (2 + T::kStages + stage) * T::kTile};
  };

  const int block = gridDim.x - 1 - blockIdx.x, head = blockIdx.y, batch = blockIdx.z;
  const int kv_head = head / (a.heads / a.kv_heads), first = block * kMmaRows;
  const int warp = threadIdx.x / 32, row0 = warp % 4 * 16, col0 = warp / 4 * T::kColumns;
  const BlockBounds bounds = a.bounds[int64_t(batch) * a.num_bounds + block];
  const int begin = bounds.read_begin / kMmaRows;
  const int end = bounds.read_begin < bounds.read_end ? (bounds.read_end + kMmaRows - 1) / kMmaRows : begin;

  const auto load_keys = [&](int key_block) {
    if (key_block < end) {
      const int stage = key_block % T::kStages;
      load_rows<kDim, T::kThreads>(k_tile(stage), a.k, batch, kv_head, key_block * kMmaRows, a.num_keys);
      load_rows<kDim, T::kThreads>(v_tile(stage), a.v, batch, kv_head, key_block * kMmaRows, a.num_keys);
    }
    copy_async_commit();
  };
  load_rows<kDim, T::kThreads>(q_tile, a.q, batch, head, first, a.num_queries);
  load_rows<kDim, T::kThreads>(dout_tile, a.dout, batch, head, first, a.num_queries);
  load_keys(begin);

  const LaneRanges ranges(a.ranges, int64_t(batch) * a.num_queries, first + row0, a.num_queries);
  const int64_t statistics =
      (int64_t(batch) * a.heads + head) * a.padded + first + row0 + int(threadIdx.x) % 32 / 4;
  const float lse[2] = {a.padded_lse[statistics], a.padded_lse[statistics + 8]};
  const float delta[2] = {a.delta[statistics], a.delta[statistics + 8]};
  float dq[T::kColumns / 8][4] = {};
  for (int key_block = begin; key_block < end; ++key_block) {
    copy_async_wait<0>();
    __syncthreads();
    if (T::kStages == 2) load_keys(key_block + 1);
    const int stage = key_block % T::kStages, key0 = key_block * kMmaRows;
    float s[kMmaRows / 8][4], dp[kMmaRows / 8][4];
    multiply_transposed<kDim>(s, q_tile, row0, k_tile(stage));
    if (!bounds.all_read(key0, key0 + kMmaRows)) mask_scores(s, ranges, key0);
    probabilities_of_rows(s, a.scale_log2, lse);
    multiply_transposed<kDim>(dp, dout_tile, row0, v_tile(stage));
    score_gradient_of_rows(dp, s, delta);
    uint32_t ds[kMmaRows / 16][4];
    to_a_fragments(ds, dp);
    multiply_add<kDim>(dq, ds, k_tile(stage), col0);
    if (T::kStages == 1) {
      __syncthreads();
      load_keys(key_block + 1);
    }
  }
  copy_async_wait<0>();
  const float factor[2] = {a.scale, a.scale};
  store_rows<kDim>(a.dq, batch, a.num_queries, a.heads, head, first + row0, col0, dq, factor);
}

}  // namespace

void attention_dkdv_mma(cudaStream_t stream, const AttentionArgsBf16& args) {
  dispatch_width(args.key_width, [&](auto width) {
    using T = Traits<decltype(width)::value>;
    constexpr auto* kernel = dkdv_kernel<decltype(width)::value>;
    static const bool ready = (allow_shared_memory(kernel, T::kSharedBytes), true);
    (void)ready;
    const dim3 grid(ceil_div(args.num_keys, kMmaRows), args.kv_heads, args.batch);
    kernel<<<grid, T::kThreads, T::kSharedBytes, stream>>>(args);
    check_launch("softmax_attention_mma_dkdv");
  });
}

void attention_dq_mma(cudaStream_t stream, const AttentionArgsBf16& args) {
  dispatch_width(args.key_width, [&](auto width) {
    using T = Traits<decltype(width)::value>;
    constexpr auto* kernel = dq_kernel<decltype(width)::value>;
    static const bool ready = (allow_shared_memory(kernel, T::kSharedBytes), true);
    (void)ready;
    const dim3 grid(args.num_bounds, args.heads, args.batch);
    kernel<<<grid, T::kThreads, T::kSharedBytes, stream>>>(args);
    check_launch("softmax_attention_mma_dq");
  });
}

}  // namespace spanwise::cuda
