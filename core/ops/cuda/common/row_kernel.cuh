#pragma once
// The kernel of every norm: one pass over rows that are reduced to a number and then rewritten with it, read
// once and kept packed in registers; weight gradients are summed in registers and left as partials.
//
// kThreads consecutive threads hold a row, kPacks packs each. A block is a few such slots; slot s takes rows
// s, s + slots, …, the next one loading while one is computed (narrow rows). `slots` is a multiple of the
// number of weight rows, so a slot meets one weight row only and keeps it, and its gradient, in registers.
//
// An Op has
//   kInputs, kOutputs, kWeightGradient
//   float term(const float (&in)[kInputs], float w)           what is summed over a row
//   void apply(in, w, Scale, float (&out)[kOutputs], float& dw)
//   Scale scale(int64_t row, float sum, bool leader)          a row's numbers; the leader may store them
// and zeros as inputs must give a term of 0.

#include "core/ops/cuda/common/pack.cuh"
#include "core/ops/cuda/common/partial_sums.h"
#include "core/ops/cuda/common/rows.cuh"
#include "core/ops/dim_part.h"
#include "core/ops/gpu_limits.h"

namespace spanwise::cuda {

/// Rows that go on in other parts are reduced by one launch and rewritten by another; their sums lie in
/// `sums` between the two.
enum class RowPhase { kWhole, kReduce, kApply };

template <class T, int kInputs, int kOutputs>
struct RowOperands {
  RowView<const T> in[kInputs];
  T* out[kOutputs];     ///< contiguous; nullptr: not written
  const float* weight;  ///< [groups, width]; nullptr: ones
  int64_t rows;
  int32_t width;
  int32_t groups = 1;     ///< row r has weight row r mod groups
  float* sums = nullptr;  ///< [rows], in phases other than kWhole
  RowPhase phase = RowPhase::kWhole;
};

struct RowGrid {
  unsigned blocks;
  int64_t slots;
  bool folded;            ///< a block adds its slots' gradients up before it leaves them
  int64_t partial_count;  ///< partials [partial_count, groups · width]
};

constexpr int row_block_threads(int threads) {
  return threads < 128 ? 128 : threads;
}

/// The sum over kThreads consecutive threads, on each of them. Consecutive calls alternate `scratch`.
template <int kThreads>
__device__ __forceinline__ float row_sum(float x, float* scratch) {
#pragma unroll
  for (int offset = (kThreads < 32 ? kThreads : 32) / 2; offset > 0; offset /= 2)
    x += __shfl_xor_sync(0xffffffffu, x, offset);
  if constexpr (kThreads > 32) {
    constexpr int kWarps = kThreads / 32;
    const int warp = threadIdx.x / 32;
    if (threadIdx.x % 32 == 0) scratch[warp] = x;
    __syncthreads();
    x = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) x += scratch[warp / kWarps * kWarps + w];
  }
  return x;
}

/// Adds the block's slots, which take turns at the weight's rows, and leaves the sum.
template <int kWidth, int kThreads, int kPacks>
__device__ __forceinline__ void fold_slots(const float (&dw)[kPacks][kWidth], int groups, int width,
                                           float* to) {
  constexpr int kSlots = row_block_threads(kThreads) / kThreads, kPadded = kThreads * kPacks * kWidth;
  __shared__ float sums[kSlots * kPadded];
  const int lane = threadIdx.x % kThreads, slot = threadIdx.x / kThreads;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sums[slot * kPadded + (p * kThreads + lane) * kWidth + i] = dw[p][i];
  }
  __syncthreads();
  for (int c = threadIdx.x; c < groups * width; c += row_block_threads(kThreads)) {
    float sum = 0;
    for (int s = c / width; s < kSlots; s += groups) sum += sums[s * kPadded + c % width];
    to[c] = sum;
  }
}

template <class Op, class T, int kWidth, int kThreads, int kPacks>
__global__ void __launch_bounds__(row_block_threads(kThreads))
    row_kernel(const RowOperands<T, Op::kInputs, Op::kOutputs> a, const Op op, const RowGrid grid,
               float* __restrict__ partial) {
  constexpr int kBlock = row_block_threads(kThreads), kSlots = kBlock / kThreads;
  using Values = Pack<T, kWidth>;
  __shared__ float scratch[2][kBlock / 32];
  const int lane = threadIdx.x % kThreads;
  const int64_t first_slot = int64_t(blockIdx.x) * kSlots, slot = first_slot + threadIdx.x / kThreads;
  const bool active = slot < grid.slots;
  const int group = int(uint32_t(slot) % uint32_t(a.groups));
  const auto column = [&](int p) { return (p * kThreads + lane) * kWidth; };

  float weight[kPacks][kWidth], dw[kPacks][kWidth];
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      dw[p][i] = 0;
      weight[p][i] = a.weight && column(p) < a.width ? a.weight[group * a.width + column(p) + i] : 1.0f;
    }
  }
  const auto load = [&](int64_t row, Values(&values)[kPacks][Op::kInputs]) {
#pragma unroll
    for (int k = 0; k < Op::kInputs; ++k) {
      const T* from = active && row < a.rows ? a.in[k].at(row) : nullptr;
#pragma unroll
      for (int p = 0; p < kPacks; ++p)
        values[p][k] = from && column(p) < a.width ? Values::load(from + column(p)) : Values::zero();
    }
  };

  constexpr bool kAhead = kPacks <= 2;  // wider rows would not fit in the registers twice
  Values next[kPacks][Op::kInputs];
  if constexpr (kAhead) load(slot, next);
  int parity = 0;
  for (int64_t first = first_slot, row = slot; first < a.rows; first += grid.slots, row += grid.slots) {
    Values now[kPacks][Op::kInputs];
    if constexpr (!kAhead) load(row, next);
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
#pragma unroll
      for (int k = 0; k < Op::kInputs; ++k) now[p][k] = next[p][k];
    }
    if constexpr (kAhead) load(row + grid.slots, next);

    float sum = 0;
    if (a.phase != RowPhase::kApply) {
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          float in[Op::kInputs];
#pragma unroll
          for (int k = 0; k < Op::kInputs; ++k) in[k] = now[p][k].get(i);
          sum += op.term(in, weight[p][i]);
        }
      }
      sum = row_sum<kThreads>(sum, scratch[parity ^= 1]);
    }
    if (!active || row >= a.rows) continue;
    if (a.phase == RowPhase::kReduce) {
      if (lane == 0) a.sums[row] = sum;
      continue;
    }
    if (a.phase == RowPhase::kApply) sum = a.sums[row];
    const auto scale = op.scale(row, sum, lane == 0);
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      float out[Op::kOutputs][kWidth];
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        float in[Op::kInputs], values[Op::kOutputs];
#pragma unroll
        for (int k = 0; k < Op::kInputs; ++k) in[k] = now[p][k].get(i);
        op.apply(in, weight[p][i], scale, values, dw[p][i]);
#pragma unroll
        for (int k = 0; k < Op::kOutputs; ++k) out[k][i] = values[k];
      }
#pragma unroll
      for (int k = 0; k < Op::kOutputs; ++k) {
        if (column(p) < a.width && a.out[k]) Values::from(out[k]).store(a.out[k] + row * a.width + column(p));
      }
    }
  }

  if constexpr (Op::kWeightGradient) {
    if (partial == nullptr) return;
    if constexpr (kSlots > 1) {
      if (grid.folded) {
        fold_slots<kWidth, kThreads, kPacks>(dw, a.groups, a.width,
                                             partial + int64_t(blockIdx.x) * a.groups * a.width);
        return;
      }
    }
    if (!active) return;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        if (column(p) < a.width) partial[slot * a.width + column(p) + i] = dw[p][i];
      }
    }
  }
}

template <int kWidth, int kThreads, int kPacks>
struct RowShape {
  static constexpr int kWidthOf = kWidth, kThreadsOf = kThreads, kPacksOf = kPacks;
};

/// The weight rows that a norm's rows take turns at.
inline int32_t weight_groups(const Tensor& weight, int64_t width) {
  return weight.defined() ? int32_t(weight.numel() / width) : 1;
}

/// 1 / the elements a row's mean is over.
inline float inverse_width(const Tensor& x, const DimPart& part) {
  return float(1.0 / double(part.divided() ? part.whole : x.dim(-1)));
}

/// fn(RowShape) for the narrowest shape that holds rows of `width`.
template <class T, class F>
void with_row_shape(const char* op, bool aligned, int64_t width, F&& fn) {
  constexpr int kWide = kVector<T>;
  constexpr DType kDType = sizeof(T) == 2 ? DType::kBF16 : DType::kF32;
  constexpr int64_t kMost = gpu_limits::most_row_elems(kDType, true),
                    kMostUnaligned = gpu_limits::most_row_elems(kDType, false);
  const int64_t packs = width / kWide;
  if (aligned && width <= kMost) {
    if (packs <= 8) return fn(RowShape<kWide, 8, 1>{});
    if (packs <= 16) return fn(RowShape<kWide, 16, 1>{});
    if (packs <= 32) return fn(RowShape<kWide, 32, 1>{});
    if (packs <= 64) return fn(RowShape<kWide, 32, 2>{});
    if (packs <= 128) return fn(RowShape<kWide, 64, 2>{});
    if (packs <= 256) return fn(RowShape<kWide, 128, 2>{});
    if (packs <= 512) return fn(RowShape<kWide, 256, 2>{});
    if (packs <= 1024) return fn(RowShape<kWide, 512, 2>{});
    return fn(RowShape<kWide, 512, 4>{});
  }
  SPANWISE_CHECK(width <= kMostUnaligned,
                 "{}: rows of {} elements are not supported on CUDA (up to {} in rows aligned to 16 bytes, "
                 "up to {} in others are)",
                 op, width, kMost, kMostUnaligned);
  if (width <= 32) return fn(RowShape<1, 32, 1>{});
  if (width <= 256) return fn(RowShape<1, 128, 2>{});
  return fn(RowShape<1, 512, 8>{});
}

/// `waves`: times that the GPU is filled. One leaves the fewest partials; without them, many even out better
/// where blocks end.
template <int kThreads, class Kernel>
RowGrid row_grid(Kernel* kernel, int64_t rows, int groups, int waves) {
  constexpr int kBlock = row_block_threads(kThreads), kSlots = kBlock / kThreads;
  const int64_t blocks = std::min(ceil_div(rows, kSlots), waves * resident_blocks(kernel, kBlock));
  RowGrid grid;
  grid.slots = std::max<int64_t>(blocks * kSlots / groups, 1) * groups;
  grid.blocks = unsigned(ceil_div(grid.slots, kSlots));
  grid.folded = kSlots % groups == 0;
  grid.partial_count = grid.folded ? grid.blocks : grid.slots / groups;
  return grid;
}

/// Runs the op over all rows, in two launches with part.sum between them where rows are divided. `partials`
/// gives memory for so many floats, or nullptr where no weight gradient is wanted; the grid says how many
/// partials were left there.
template <class Op, class T, class Partials>
RowGrid run_rows(const Context& ctx, const char* name, bool aligned,
                 RowOperands<T, Op::kInputs, Op::kOutputs> operands, const Op& op, const DimPart& part,
                 const Tensor& sums, Partials&& partials) {
  RowGrid grid{};
  if (operands.rows == 0) return grid;
  with_row_shape<T>(name, aligned, operands.width, [&](auto shape) {
    using Shape = decltype(shape);
    const auto kernel = row_kernel<Op, T, Shape::kWidthOf, Shape::kThreadsOf, Shape::kPacksOf>;
    grid = row_grid<Shape::kThreadsOf>(kernel, operands.rows, operands.groups, Op::kWeightGradient ? 1 : 16);
    float* partial = partials(grid.partial_count * operands.groups * operands.width);
    const auto launch = [&](RowPhase phase) {
      operands.phase = phase;
      kernel<<<grid.blocks, row_block_threads(Shape::kThreadsOf), 0, stream_of(ctx)>>>(operands, op, grid,
                                                                                       partial);
      check_launch(name);
    };
    if (!part.divided()) return launch(RowPhase::kWhole);
    operands.sums = pointer<float>(sums);
    launch(RowPhase::kReduce);
    part.sum(sums);
    launch(RowPhase::kApply);
  });
  return grid;
}

/// Without a weight gradient.
template <class Op, class T>
void run_rows(const Context& ctx, const char* name, bool aligned,
              const RowOperands<T, Op::kInputs, Op::kOutputs>& operands, const Op& op,
              const DimPart& part = {}, const Tensor& sums = {}) {
  run_rows<Op, T>(ctx, name, aligned, operands, op, part, sums, [](int64_t) -> float* { return nullptr; });
}

/// With the weight's gradient, F32, written (=); undefined: not wanted.
template <class Op, class T>
void run_rows_backward(Context& ctx, const char* name, bool aligned,
                       const RowOperands<T, Op::kInputs, Op::kOutputs>& operands, const Op& op,
                       const DimPart& part, const Tensor& sums, const Tensor& dweight) {
  Tensor memory;
  const RowGrid grid =
      run_rows<Op, T>(ctx, name, aligned, operands, op, part, sums, [&](int64_t floats) -> float* {
        if (!dweight.defined()) return nullptr;
        memory = Tensor::empty(ctx, {floats}, DType::kF32);
        return memory.data<float>();
      });
  if (!dweight.defined()) return;
  if (operands.rows == 0) return dweight.set_zero();
  sum_partials(ctx, memory.data<float>(), grid.partial_count, dweight.numel(), pointer<float>(dweight));
}

}  // namespace spanwise::cuda
