// Softmax attention forward with mma.sync: one block of 64 queries of one head, keys in blocks of 64 of which
// the next is on its way while one is worked on.

#include "core/ops/cuda/softmax_attention/mma.cuh"

namespace spanwise::cuda {

namespace {

constexpr int kThreads = 128, kStages = 2;

template <int kDim>
constexpr int shared_bytes() {
  return (1 + 2 * kStages) * kMmaRows * kDim * int(sizeof(bf16));
}

template <int kDim>
__global__ void __launch_bounds__(kThreads) fwd_kernel(const AttentionArgsBf16 a) {
  extern __shared__ __align__(128) bf16 shared[];
  constexpr int kTile = kMmaRows * kDim;
  const auto k_tile = [&](int stage) { return SwizzledTile<kDim>{shared + (1 + stage) * kTile}; };
  const auto v_tile = [&](int stage) { return SwizzledTile<kDim>{shared + (1 + kStages + stage) * kTile}; };
  const SwizzledTile<kDim> q_tile{shared};

  // The last queries first: with a causal mask they are the longest.
  const int block = gridDim.x - 1 - blockIdx.x, head = blockIdx.y, batch = blockIdx.z;
  const int kv_head = head / (a.heads / a.kv_heads), first = block * kMmaRows;
  const int warp = threadIdx.x / 32, row0 = 16 * warp;
  const BlockBounds bounds = a.bounds[int64_t(batch) * a.num_bounds + block];
  const int begin = bounds.read_begin / kMmaRows;
  const int end = bounds.read_begin < bounds.read_end ? (bounds.read_end + kMmaRows - 1) / kMmaRows : begin;

  const auto load_keys = [&](int key_block) {
    if (key_block < end) {
      const int stage = key_block % kStages;
      load_rows<kDim, kThreads>(k_tile(stage), a.k, batch, kv_head, key_block * kMmaRows, a.num_keys);
      load_rows<kDim, kThreads>(v_tile(stage), a.v, batch, kv_head, key_block * kMmaRows, a.num_keys);
    }
    copy_async_commit();
  };
  load_rows<kDim, kThreads>(q_tile, a.q, batch, head, first, a.num_queries);
  load_keys(begin);

  const LaneRanges ranges(a.ranges, int64_t(batch) * a.num_queries, first + row0, a.num_queries);
  OnlineSoftmax softmax;
  float out[kDim / 8][4] = {};
  for (int key_block = begin; key_block < end; ++key_block) {
    copy_async_wait<0>();
    __syncthreads();  // the block is here, and nobody reads the other stage any more
    load_keys(key_block + 1);
    const int stage = key_block % kStages, key0 = key_block * kMmaRows;
    float s[kMmaRows / 8][4], shrink[2];
    multiply_transposed<kDim>(s, q_tile, row0, k_tile(stage));
    if (!bounds.all_read(key0, key0 + kMmaRows)) mask_scores(s, ranges, key0);
    softmax.update(s, a.scale_log2, shrink);
    scale_rows(out, shrink);
    uint32_t p[kMmaRows / 16][4];
    to_a_fragments(p, s);
    multiply_add<kDim>(out, p, v_tile(stage), 0);
  }
  copy_async_wait<0>();

  float factor[2], lse[2];
  softmax.finish(a.scale_log2, factor, lse);
  store_rows<kDim>(a.out, batch, a.num_queries, a.heads, head, first + row0, 0, out, factor);
  const int lane = threadIdx.x % 32;
  if (lane % 4 != 0) return;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int query = first + row0 + lane / 4 + 8 * half;
    if (query < a.num_queries) a.lse[(int64_t(batch) * a.num_queries + query) * a.heads + head] = lse[half];
  }
}

}  // namespace

void attention_fwd_mma(cudaStream_t stream, const AttentionArgsBf16& args) {
  dispatch_width(args.key_width, [&](auto width) {
    constexpr int kDim = decltype(width)::value;
    static const bool ready = (allow_shared_memory(fwd_kernel<kDim>, shared_bytes<kDim>()), true);
    (void)ready;
    const dim3 grid(args.num_bounds, args.heads, args.batch);
    fwd_kernel<kDim><<<grid, kThreads, shared_bytes<kDim>(), stream>>>(args);
    check_launch("softmax_attention_mma_fwd");
  });
}

}  // namespace spanwise::cuda
