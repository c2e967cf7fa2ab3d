#pragma once
// Softmax arithmetic on accumulator tiles, shared by the mma.sync and the wgmma kernels: both hold a warp's
// 16 rows as [n-tiles of 8 columns][4] floats, lane 4g + t holding rows g and g + 8, columns 2t and 2t + 1
// (core/ops/cuda/common/mma.cuh). And the walks over blocks of keys and queries.

#include "core/ops/cuda/common/mma.cuh"
#include "core/ops/cuda/softmax_attention/args.h"

namespace spanwise::cuda {

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Reductions over the four lanes that share a row.
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/// What `kBlocks` consecutive blocks of kBoundsQueries queries read.
template <int kBlocks>
__device__ __forceinline__ BlockBounds joined_bounds(const BlockBounds* row_bounds, int first, int num) {
  BlockBounds all = row_bounds[first];
#pragma unroll
  for (int i = 1; i < kBlocks; ++i) {
    if (first + i >= num) break;
    const BlockBounds b = row_bounds[first + i];
    all = {min(all.read_begin, b.read_begin), max(all.read_end, b.read_end), max(all.all_begin, b.all_begin),
           min(all.all_end, b.all_end)};
  }
  return all;
}

/// The blocks of queries that read some of keys [begin, end), in ascending order. All lanes of a warp call
/// next() together. `end` is that of a whole block of keys, also where there are fewer: rows behind the last
/// key have scores of zero, of which P is infinite where all of a query's logits lie far below zero, and only
/// a block that is not read by all is masked.
class ReadingBlocks {
 public:
  __device__ ReadingBlocks(const BlockBounds* row_bounds, int num, int begin, int end)
      : bounds_(row_bounds), num_(num), begin_(begin), end_(end) {}
  /// Index of the next block, or −1.
  __device__ int next() {
    while (reading_ == 0) {
      base_ += 32;
      if (base_ >= num_) return -1;
      const int at = base_ + int(threadIdx.x) % 32;
      const BlockBounds b = at < num_ ? bounds_[at] : BlockBounds{0, 0, 0, 0};
      reading_ = __ballot_sync(0xffffffffu, b.reads(begin_, end_));
      all_ = __ballot_sync(0xffffffffu, b.all_read(begin_, end_));
    }
    const int bit = __ffs(reading_) - 1;
    reading_ &= reading_ - 1;
    masked_ = (all_ >> bit & 1) == 0;
    return base_ + bit;
  }
  /// Of the block that next() gave: some query of it does not read all the keys.
  __device__ bool masked() const { return masked_; }

 private:
  const BlockBounds* bounds_;
  int num_, begin_, end_, base_ = -32;
  unsigned reading_ = 0, all_ = 0;
  bool masked_ = false;
};

/// The keys that this lane's rows g and g + 8 of a warp's 16 queries read.
struct LaneRanges {
  int2 of[2];
  __device__ LaneRanges(const int2* ranges, int64_t row_start, int first_query, int num_queries) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int query = first_query + int(threadIdx.x) % 32 / 4 + 8 * half;
      of[half] = query < num_queries ? ranges[row_start + query] : int2{0, 0};
    }
  }
};

/// s [queries, keys from key0] ← −infinity where the query does not read the key.
template <int kTiles>
__device__ __forceinline__ void mask_scores(float (&s)[kTiles][4], const LaneRanges& ranges, int key0) {
  const int column = key0 + 2 * (int(threadIdx.x) % 4);
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int key = column + 8 * i + e % 2;
      const int2 range = ranges.of[e / 2];
      if (key < range.x || key >= range.y) s[i][e] = -INFINITY;
    }
  }
}

/// Online softmax of two rows a lane. Scores are unscaled; `scale` includes log2(e) and is positive.
struct OnlineSoftmax {
  float largest[2] = {-INFINITY, -INFINITY};  ///< of the scores so far
  float sum[2] = {0, 0};                      ///< this lane's part of the sum of exponentials

  /// s ← exp(scale (s − largest)) with the new largest score; shrink: what earlier sums are multiplied by.
  template <int kTiles>
  __device__ __forceinline__ void update(float (&s)[kTiles][4], float scale, float (&shrink)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = largest[half];
#pragma unroll
      for (int i = 0; i < kTiles; ++i) top = fmaxf(top, fmaxf(s[i][2 * half], s[i][2 * half + 1]));
      top = quad_max(top);
      // A row that has read nothing yet: any finite offset gives exp2(−infinity) = 0.
      const float offset = top == -INFINITY ? 0.0f : top * scale;
      shrink[half] = exp2_fast(largest[half] * scale - offset);
      largest[half] = top;
      float added = 0;
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          s[i][e] = exp2_fast(fmaf(s[i][e], scale, -offset));
          added += s[i][e];
        }
      }
      sum[half] = fmaf(sum[half], shrink[half], added);
    }
  }

  /// Sums over the row's lanes; factor: 1 / sum, 0 for a row that read nothing; lse: natural logarithm of
  /// the sum of exp(scale · score), 0 for such a row. Call once.
  __device__ __forceinline__ void finish(float scale, float (&factor)[2], float (&lse)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = quad_sum(sum[half]);
      const bool empty = total == 0.0f;
      factor[half] = empty ? 0.0f : 1.0f / total;
      lse[half] = empty ? 0.0f : fmaf(largest[half], scale, log2f(total)) / kLog2E;
    }
  }
};

template <int kTiles>
__device__ __forceinline__ void scale_rows(float (&x)[kTiles][4], const float (&factor)[2]) {
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) x[i][e] *= factor[e / 2];
  }
}

/// x in bf16 as A fragments, one for every 16 columns.
template <int kTiles>
__device__ __forceinline__ void to_a_fragments(uint32_t (&a)[kTiles / 2][4], const float (&x)[kTiles][4]) {
#pragma unroll
  for (int i = 0; i < kTiles / 2; ++i) accumulators_to_a(a[i], x[2 * i], x[2 * i + 1]);
}

/// P [queries, keys] from scores and the rows' log-sum-exp in base 2.
template <int kTiles>
__device__ __forceinline__ void probabilities_of_rows(float (&s)[kTiles][4], float scale,
                                                      const float (&lse)[2]) {
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) s[i][e] = exp2_fast(fmaf(s[i][e], scale, -lse[e / 2]));
  }
}

/// dp ← P ∘ (dp − δ), δ of the rows.
template <int kTiles>
__device__ __forceinline__ void score_gradient_of_rows(float (&dp)[kTiles][4], const float (&p)[kTiles][4],
                                                       const float (&delta)[2]) {
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) dp[i][e] = p[i][e] * (dp[i][e] - delta[e / 2]);
  }
}

// The transposes: rows are keys, columns queries, whose statistics lie in shared or global memory.

/// sᵀ [keys, queries] ← −infinity where the query does not read the key; `key`: this lane's row g;
/// `ranges`: of the tile's first query. Queries from num_queries on have infinite log-sum-exp.
template <int kTiles>
__device__ __forceinline__ void mask_columns(float (&s)[kTiles][4], const int2* ranges, int num_queries,
                                             int key) {
  const int column = 2 * (int(threadIdx.x) % 4);
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int query = column + 8 * i + e % 2, at = key + 8 * (e / 2);
      // Volatile: loads that the compiler moved together would take registers that these kernels lack.
      int2 range{0, 0};
      if (query < num_queries)
        asm volatile("ld.global.nc.v2.s32 {%0, %1}, [%2];"
                     : "=r"(range.x), "=r"(range.y)
                     : "l"(ranges + query));
      if (at < range.x || at >= range.y) s[i][e] = -INFINITY;
    }
  }
}

template <int kTiles>
__device__ __forceinline__ void probabilities_of_columns(float (&s)[kTiles][4], float scale,
                                                         const float* lse) {
  const int column = 2 * (int(threadIdx.x) % 4);
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    const float2 l = *reinterpret_cast<const float2*>(lse + column + 8 * i);
#pragma unroll
    for (int e = 0; e < 4; ++e) s[i][e] = exp2_fast(fmaf(s[i][e], scale, e % 2 ? -l.y : -l.x));
  }
}

/// The same with P as A fragments.
template <int kTiles>
__device__ __forceinline__ void score_gradient_of_columns(float (&dp)[kTiles][4],
                                                          const uint32_t (&p)[kTiles / 2][4],
                                                          const float* delta) {
  const int column = 2 * (int(threadIdx.x) % 4);
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    const float2 d = *reinterpret_cast<const float2*>(delta + column + 8 * i);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 pair = unpack_bf16(p[i / 2][i % 2 * 2 + half]);
      dp[i][2 * half] = pair.x * (dp[i][2 * half] - d.x);
      dp[i][2 * half + 1] = pair.y * (dp[i][2 * half + 1] - d.y);
    }
  }
}

template <int kTiles>
__device__ __forceinline__ void score_gradient_of_columns(float (&dp)[kTiles][4], const float (&p)[kTiles][4],
                                                          const float* delta) {
  const int column = 2 * (int(threadIdx.x) % 4);
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    const float2 d = *reinterpret_cast<const float2*>(delta + column + 8 * i);
#pragma unroll
    for (int e = 0; e < 4; ++e) dp[i][e] = p[i][e] * (dp[i][e] - (e % 2 ? d.y : d.x));
  }
}

}  // namespace spanwise::cuda
