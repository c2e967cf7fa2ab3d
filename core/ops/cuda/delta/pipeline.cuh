#pragma once
// What the scan and the retreat share: a block of two warpgroups owns 64 columns of V of one value head over
// one segment. The second warpgroup copies the chunks' operands into a ring of stages; the first computes,
// with the transposed state, [64, K] fp32, in its registers: every warp 16 columns of V.

#include "core/ops/cuda/common/async_copy.cuh"
#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/delta/chunks.cuh"

namespace spanwise::cuda::delta {

inline constexpr int kWarpgroup = 128, kScanThreads = 2 * kWarpgroup;

struct Factors {
  float factors[kFactorElems];

  __device__ const float* from_start() const { return factors + kChunk; }
  __device__ const float* to_end() const { return factors + 2 * kChunk; }
  __device__ const float* beta() const { return factors + 3 * kChunk; }
  /// e^Ḡ
  __device__ float total() const { return factors[2 * kChunk - 1]; }
};
static_assert(sizeof(Factors) % 1024 == 0);  // images follow

template <int kK>
struct Stage : Factors {
  bf16 k[kChunk * kK], q[kChunk * kK];
  bf16 theta[kImageElems], scores[kImageElems];
  bf16 values[kImageElems];  ///< rows of v or dout
};

template <int kK>
struct Pipeline {
  static constexpr int kStages = kK <= 128 ? 3 : 2;
  Stage<kK> stages[kStages];
  bf16 state[kChunk * kK];   ///< images on their way to global memory; every warp its 16 rows
  bf16 values[kImageElems];  ///< the same, [token, column]; every warp its 16 columns
  Chunk chunks[kStages];
  MBarrier full[kStages], empty[kStages];
};

struct Unit {
  Segment segment;
  int head, slab, num_slabs;
  __device__ int chunk_at(Direction direction, int n) const {
    return direction == Direction::kForward ? segment.first + n : segment.last - 1 - n;
  }
  /// Where this head's matrix begins in [index, HV, K, V].
  __device__ int64_t matrix(int index, const Problem& p) const {
    return (int64_t(index) * p.HV + head) * p.K * p.V;
  }
  /// The matrix that the segment starts from in this direction, its row of `rows` or its piece; or nullptr.
  __device__ const float* start(const float* rows, int row, const float* pieces, const Problem& p) const {
    if (segment.piece >= 0) return pieces + matrix(segment.piece, p);
    return rows && row >= 0 ? rows + matrix(row, p) : nullptr;
  }
  __device__ int num_chunks() const { return segment.last - segment.first; }
  /// Image of this head's part of V in [index, HV, V/64, images_each].
  __device__ int64_t image(int64_t index, const Problem& p, int images_each) const {
    return ((index * p.HV + head) * num_slabs + slab) * images_each;
  }
};
/// Blocks of one head's slabs come together, so that they find its operands in L2.
__device__ __forceinline__ Unit unit_of_block(const Problem& p, const Segment* segments) {
  Unit u;
  u.num_slabs = p.V / 64;
  u.slab = blockIdx.x % u.num_slabs;
  u.head = blockIdx.x / u.num_slabs % p.HV;
  u.segment = segments[blockIdx.x / u.num_slabs / p.HV];
  return u;
}

template <int kK>
__device__ __forceinline__ void init_pipeline(Pipeline<kK>& smem) {
  if (threadIdx.x == 0) {
    for (int s = 0; s < Pipeline<kK>::kStages; ++s) {
      smem.full[s].init(kWarpgroup + 1);
      smem.empty[s].init(kWarpgroup / 32 * kWarpArrivals);
    }
    fence_barrier_init();
  }
  __syncthreads();
}

/// The way of a copying warpgroup through a ring of stages: load(stage, index of the chunk, chunk) starts the
/// copies of one, all threads; a stage is full when its own have landed, while the next stage's are under
/// way.
template <int kStages, class NumChunks, class ChunkAt, class Load>
__device__ __forceinline__ void produce_stages(MBarrier (&full)[kStages], MBarrier (&empty)[kStages],
                                               const Chunk* chunks, NumChunks&& num_chunks,
                                               ChunkAt&& chunk_at, Load&& load) {
  const auto publish = [&](int n) {
    fence_async_proxy();
    full[n % kStages].arrive();
  };
  for (int n = 0; n < num_chunks(); ++n) {
    const int s = n % kStages, turn = n / kStages, index = chunk_at(n);
    const Chunk chunk = chunks[index];
    if (turn > 0) empty[s].wait((turn - 1) & 1);
    load(s, index, chunk);
    copy_async_commit();
    if (n == 0) continue;
    copy_async_wait<1>();
    publish(n - 1);
  }
  copy_async_wait<0>();
  publish(num_chunks() - 1);
}

/// The copying warpgroup.
template <int kK, Direction kDirection>
__device__ __forceinline__ void produce(Pipeline<kK>& smem, const Problem& p, const Unit& unit,
                                        const Rows& values, const bf16* theta, const bf16* scores,
                                        const float* factors) {
  const int thread = threadIdx.x - kWarpgroup, key_head = unit.head * p.H / p.HV;
  const auto load = [&](int s, int index, const Chunk& chunk) {
    Stage<kK>& stage = smem.stages[s];
    if (thread == 0) {
      smem.chunks[s] = chunk;
      smem.full[s].expect(2 * kImageBytes + kFactorBytes);
      const int64_t at = int64_t(index) * p.HV + unit.head;
      bulk_load(stage.theta, theta + at * kImageElems, kImageBytes, &smem.full[s]);
      bulk_load(stage.scores, scores + at * kImageElems, kImageBytes, &smem.full[s]);
      bulk_load(stage.factors, factors + at * kFactorElems, kFactorBytes, &smem.full[s]);
      smem.full[s].copies_started();
    }
    copy_rows<kK, kWarpgroup>(stage.k, p.k, chunk, key_head * kK, thread);
    copy_rows<kK, kWarpgroup>(stage.q, p.q, chunk, key_head * kK, thread);
    copy_rows<64, kWarpgroup>(stage.values, values, chunk, unit.head * p.V + unit.slab * 64, thread);
  };
  produce_stages(
      smem.full, smem.empty, p.chunks, [&] { return unit.num_chunks(); },
      [&](int n) { return unit.chunk_at(kDirection, n); }, load);
}

/// The state of one block: accumulators of [64, K], in blocks that one product covers.
template <int kK>
struct State {
  static constexpr int kCols = kK < 128 ? kK : 128, kBlocks = kK / kCols;
  float c[kBlocks][kCols / 2];

  /// Rows 16·warp.. and columns 16·step.. as an A fragment.
  __device__ __forceinline__ void fragment(uint32_t (&a)[4], int step) const {
    const float* from = c[step * 16 / kCols] + step * 16 % kCols / 2;
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = pack_bf16(from[2 * i], from[2 * i + 1]);
  }
  __device__ __forceinline__ void zero() {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (int i = 0; i < kCols / 2; ++i) c[b][i] = 0;
    }
  }
  __device__ __forceinline__ void scale(float factor) {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (int i = 0; i < kCols / 2; ++i) c[b][i] *= factor;
    }
  }
  /// += a·B, B's rows k..k+15 of the images at `images`, stored [k, K].
  __device__ __forceinline__ void add_product(const uint32_t (&a)[4], uint32_t images, int k) {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) wgmma_kn(c[b], a, images + b * (kCols / 64) * kImageBytes, k);
  }
  __device__ __forceinline__ void pin() {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) pin_registers(c[b]);
  }
  /// fn(element, its row k of S, its column v of S): where this thread's elements lie.
  template <class F>
  __device__ __forceinline__ void for_each(int first_column, F&& fn) {
    const int warp = threadIdx.x / 32 % 4, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (int i = 0; i < kCols / 2; ++i)
        fn(c[b][i], b * kCols + i / 4 * 8 + 2 * t + i % 2, first_column + 16 * warp + g + i / 2 % 2 * 8);
    }
  }
};

/// Four A fragments, 64 columns, from accumulators [64, 64], columns times `factors` (shared memory).
__device__ __forceinline__ void scaled_fragments(uint32_t (&a)[4][4], const float (&c)[32],
                                                 const float* factors) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const float2 f = *reinterpret_cast<const float2*>(factors + 8 * n + 2 * t);
    a[n / 2][n % 2 * 2] = pack_bf16(c[4 * n] * f.x, c[4 * n + 1] * f.y);
    a[n / 2][n % 2 * 2 + 1] = pack_bf16(c[4 * n + 2] * f.x, c[4 * n + 3] * f.y);
  }
}
__device__ __forceinline__ void fragments(uint32_t (&a)[4][4], const float (&c)[32]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) a[i / 4][i % 4] = pack_bf16(c[2 * i], c[2 * i + 1]);
}

/// x ← β∘(v − e^G∘x)
__device__ __forceinline__ void subtract_predicted(const Factors& stage, const uint32_t (&v)[4][4],
                                                   float (&x)[32]) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int token = 16 * i + 8 * half + 2 * t;
      const float2 beta = *reinterpret_cast<const float2*>(stage.beta() + token);
      const float2 decay = *reinterpret_cast<const float2*>(stage.from_start() + token);
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const float2 value = unpack_bf16(v[i][2 * half + row]);
        float* at = x + 4 * (2 * i + half) + 2 * row;
        at[0] = beta.x * (value.x - decay.x * at[0]);
        at[1] = beta.y * (value.y - decay.y * at[1]);
      }
    }
  }
}

/// Bulk store of this warp's 16 rows of the staged state. All lanes call it after writing them.
template <int kK>
__device__ __forceinline__ void send_state(Pipeline<kK>& smem, bf16* images) {
  const int warp = threadIdx.x / 32;
  fence_async_proxy();
  __syncwarp();
  if (threadIdx.x % 32 == 0) {
#pragma unroll
    for (int i = 0; i < kK / 64; ++i) {
      const int at = i * kImageElems + 16 * warp * 64;
      bulk_store(images + at, smem.state + at, 16 * 128);
    }
    bulk_store_commit();
  }
}
/// Before the next writes to the staged state.
__device__ __forceinline__ void wait_state_sent() {
  if (threadIdx.x % 32 == 0) bulk_store_wait_read();
  __syncwarp();
}

/// Where a lane's 16-byte pieces of [64 tokens, 16 columns of its warp] lie: four rows, 16 apart.
struct LanePieces {
  int row = threadIdx.x % 32 / 2, col = threadIdx.x / 32 * 16 + threadIdx.x % 2 * 8;
  uint4 pieces[4];

  /// From fragments of the transpose, through this warp's columns of the staging image.
  __device__ __forceinline__ LanePieces(bf16* staging, const uint32_t (&a)[4][4]) {
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; ++i) store_a_image_trans(a[i], staging, threadIdx.x / 32 * 16, 16 * i);
    __syncwarp();
    const uint4* from = reinterpret_cast<const uint4*>(staging + image_piece(row, col));
#pragma unroll
    for (int i = 0; i < 4; ++i) pieces[i] = from[i * 16 * 8];
  }
  /// To an image of all 64 rows.
  __device__ __forceinline__ void store_image(bf16* image) const {
    uint4* to = reinterpret_cast<uint4*>(image + image_piece(row, col));
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i * 16 * 8] = pieces[i];
  }
  /// To the first `length` of rows `stride` elements apart.
  __device__ __forceinline__ void store_rows(bf16* rows, int64_t stride, int length) const {
    bf16* to = rows + row * stride + col;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (row + 16 * i < length) *reinterpret_cast<uint4*>(to + 16 * i * stride) = pieces[i];
    }
  }
};

template <class Kernel, class Args>
void launch_pipeline(Kernel* kernel, const char* name, int bytes, cudaStream_t stream, const Args& args) {
  const int64_t blocks = int64_t(args.num_segments) * args.problem.HV * (args.problem.V / 64);
  if (blocks == 0) return;
  allow_shared_memory(kernel, bytes);
  kernel<<<unsigned(blocks), kScanThreads, bytes, stream>>>(args);
  check_launch(name);
}

}  // namespace spanwise::cuda::delta
