#include "core/optim/clip.h"

#include <algorithm>

#include "core/ops/cuda/common/launch.h"
#include "core/optim/cuda/tables.h"
#include "core/upload.h"

namespace spanwise::cuda {

namespace {

constexpr int kThreads = 256;

/// Elements of one block of threads.
struct Piece {
  const float* x;
  int32_t n;
  bool aligned;  ///< to 16 bytes
};

static_assert(sizeof(Piece) == kNormBlockBytes);

__device__ __forceinline__ double block_sum(double x, double* scratch) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  double total = 0;
#pragma unroll
  for (int w = 0; w < kThreads / 32; ++w) total += scratch[w];
  return total;
}

__device__ __forceinline__ double square(float x) {
  return double(x) * double(x);
}

__global__ void __launch_bounds__(kThreads)
    squares_kernel(const Piece* __restrict__ pieces, double* __restrict__ sums) {
  __shared__ double scratch[kThreads / 32];
  const Piece piece = pieces[blockIdx.x];
  const int vectors = piece.aligned ? piece.n / 4 : 0;
  double sum = 0;
#pragma unroll 8
  for (int v = threadIdx.x; v < vectors; v += kThreads) {
    const float4 x = reinterpret_cast<const float4*>(piece.x)[v];
    sum += (square(x.x) + square(x.y)) + (square(x.z) + square(x.w));
  }
  for (int i = 4 * vectors + threadIdx.x; i < piece.n; i += kThreads) sum += square(piece.x[i]);
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// One block.
__global__ void __launch_bounds__(kThreads)
    add_sums_kernel(const double* __restrict__ sums, int64_t n, double* __restrict__ total) {
  __shared__ double scratch[kThreads / 32];
  double sum = 0;
#pragma unroll 8
  for (int64_t i = threadIdx.x; i < n; i += kThreads) sum += sums[i];
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) *total = sum;
}

std::vector<Piece> pieces_of(const std::vector<Tensor>& parts) {
  std::vector<Piece> pieces;
  for (const Tensor& part : parts) {
    for (int64_t begin = 0; begin < part.numel(); begin += kNormBlockElems) {
      const float* x = pointer<float>(part) + begin;
      pieces.push_back({x, int32_t(std::min(kNormBlockElems, part.numel() - begin)),
                        reinterpret_cast<uintptr_t>(x) % 16 == 0});
    }
  }
  return pieces;
}

}  // namespace

void squared_norm(Context& ctx, const std::vector<Tensor>& parts, const Tensor& sum) {
  const std::vector<Piece> pieces = pieces_of(parts);
  const Tensor table = upload(ctx, pieces);
  const int64_t blocks = int64_t(pieces.size());
  const Tensor sums = Tensor::empty(ctx, {blocks}, DType::kF64);
  if (blocks > 0) {
    squares_kernel<<<unsigned(blocks), kThreads, 0, stream_of(ctx)>>>(static_cast<const Piece*>(table.raw()),
                                                                      sums.data<double>());
  }
  add_sums_kernel<<<1, kThreads, 0, stream_of(ctx)>>>(sums.data<double>(), blocks, sum.data<double>());
  check_launch("squared_norm");
}

}  // namespace spanwise::cuda
