#pragma once
// Elementwise kernels over tensors of equal shape, some of which may be column blocks; outputs are
// contiguous.
//
// A thread does kSteps packs, all loaded before the first is computed. Where everything is contiguous the
// tensors are one row and a thread's packs lie in one tile of a block; else its packs lie in different rows.

#include "core/ops/cuda/common/pack.cuh"
#include "core/ops/cuda/common/rows.cuh"

namespace spanwise::cuda {

template <class In, class Out, int kInputs, int kOutputs>
struct ElementwiseOperands {
  RowView<const In> in[kInputs];
  Out* out[kOutputs];
  int64_t rows, width;
  int64_t row_step, column_step;  ///< from one of a thread's packs to its next
  int64_t rows_per_block, columns_per_block;
  unsigned blocks_per_row;
};

inline constexpr int kElementwiseThreads = 256;

/// op(const float (&in)[kInputs], float (&out)[kOutputs])
template <int kWidth, int kSteps, class In, class Out, int kInputs, int kOutputs, class Op>
__global__ void __launch_bounds__(kElementwiseThreads)
    elementwise_kernel(const ElementwiseOperands<In, Out, kInputs, kOutputs> a, const Op op) {
  const int64_t row = blockIdx.x / a.blocks_per_row * a.rows_per_block + threadIdx.y;
  const int64_t column = blockIdx.x % a.blocks_per_row * a.columns_per_block + int64_t(threadIdx.x) * kWidth;
  Pack<In, kWidth> values[kSteps][kInputs];
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    const int64_t r = row + s * a.row_step, c = column + s * a.column_step;
    if (r >= a.rows || c >= a.width) continue;
#pragma unroll
    for (int k = 0; k < kInputs; ++k) values[s][k] = Pack<In, kWidth>::load(a.in[k].at(r) + c);
  }
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    const int64_t r = row + s * a.row_step, c = column + s * a.column_step;
    if (r >= a.rows || c >= a.width) continue;
    float out[kOutputs][kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      float in[kInputs], results[kOutputs];
#pragma unroll
      for (int k = 0; k < kInputs; ++k) in[k] = values[s][k].get(i);
      op(in, results);
#pragma unroll
      for (int k = 0; k < kOutputs; ++k) out[k][i] = results[k];
    }
#pragma unroll
    for (int k = 0; k < kOutputs; ++k) Pack<Out, kWidth>::from(out[k]).store(a.out[k] + r * a.width + c);
  }
}

template <int kWidth, class In, class Out, int kInputs, int kOutputs, class Op>
void launch_elementwise(const Context& ctx, const char* name,
                        ElementwiseOperands<In, Out, kInputs, kOutputs>& a, const Op& op) {
  constexpr int kSteps = 2;
  dim3 threads;
  if (a.rows == 1) {
    threads = dim3(kElementwiseThreads, 1);
    a.row_step = 0;
    a.column_step = kElementwiseThreads * kWidth;
    a.rows_per_block = 1;
    a.columns_per_block = kSteps * a.column_step;
  } else {
    unsigned across = 1;
    while (across < kElementwiseThreads && int64_t(across) * kWidth < a.width) across *= 2;
    threads = dim3(across, kElementwiseThreads / across);
    a.row_step = threads.y;
    a.column_step = 0;
    a.rows_per_block = kSteps * threads.y;
    a.columns_per_block = int64_t(across) * kWidth;
  }
  a.blocks_per_row = unsigned(ceil_div(a.width, a.columns_per_block));
  const int64_t blocks = a.blocks_per_row * ceil_div(a.rows, a.rows_per_block);
  SPANWISE_CHECK(blocks <= INT32_MAX, "{}: {} rows of {} elements are too many", name, a.rows, a.width);
  elementwise_kernel<kWidth, kSteps><<<unsigned(blocks), threads, 0, stream_of(ctx)>>>(a, op);
  check_launch(name);
}

/// outputs = op(inputs), element by element. Inputs are of In, outputs, contiguous, of Out.
template <class In, class Out, int kInputs, int kOutputs, class Op>
void elementwise(const Context& ctx, const char* name, const Tensor* const (&inputs)[kInputs],
                 const Tensor* const (&outputs)[kOutputs], const Op& op) {
  ElementwiseOperands<In, Out, kInputs, kOutputs> a{};
  if (inputs[0]->numel() == 0) return;
  a.width = inputs[0]->numel();
  for (const Tensor* t : inputs) {
    if (!t->contiguous()) a.width = std::min(a.width, t->row_elems());
  }
  a.rows = inputs[0]->numel() / a.width;
  constexpr int kWidth = kVector<In> < kVector<Out> ? kVector<In> : kVector<Out>;
  bool aligned = true;
  for (int k = 0; k < kInputs; ++k) {
    a.in[k] = rows_of<const In>(*inputs[k], a.width);
    aligned &= rows_are_aligned({inputs[k]}, a.width, kWidth);
  }
  for (int k = 0; k < kOutputs; ++k) {
    SPANWISE_CHECK(outputs[k]->contiguous(), "{} writes contiguous tensors", name);
    a.out[k] = pointer<Out>(*outputs[k]);
    aligned &= rows_are_aligned({outputs[k]}, a.width, kWidth);
  }
  if (aligned) {
    launch_elementwise<kWidth>(ctx, name, a, op);
  } else {
    launch_elementwise<1>(ctx, name, a, op);
  }
}

}  // namespace spanwise::cuda
