#include "core/ops/embedding.h"

#include "core/ops/cuda/common/embedding_runs.h"
#include "core/ops/cuda/common/pack.cuh"
#include "core/ops/cuda/common/rows.cuh"
#include "core/upload.h"

namespace spanwise::cuda {

namespace {

constexpr int kThreads = 256, kRows = 4;

// A thread copies its columns of kRows consecutive tokens, all loaded before the first is stored.
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    embedding_kernel(const int32_t* __restrict__ tokens, const T* __restrict__ weight, T* __restrict__ y,
                     int64_t count, int64_t vocab, int32_t width) {
  const int64_t first = (int64_t(blockIdx.x) * blockDim.y + threadIdx.y) * kRows;
  int32_t ids[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int32_t token = first + r < count ? tokens[first + r] : -1;
    ids[r] = token < vocab ? token : -1;
  }
  for (int32_t c = threadIdx.x * kWidth; c < width; c += blockDim.x * kWidth) {
    Pack<T, kWidth> rows[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r)
      rows[r] =
          ids[r] >= 0 ? Pack<T, kWidth>::load(weight + ids[r] * int64_t(width) + c) : Pack<T, kWidth>::zero();
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (first + r < count) rows[r].store(y + (first + r) * width + c);
    }
  }
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    embedding_bwd_kernel(const T* __restrict__ dy, const int32_t* __restrict__ order,
                         const EmbeddingRun* __restrict__ runs, float* __restrict__ dweight,
                         float* __restrict__ partials, int32_t width, bool accumulate) {
  const EmbeddingRun run = runs[blockIdx.x];
  const int32_t c = (blockIdx.y * kThreads + threadIdx.x) * kWidth;
  if (c >= width) return;
  float* to = (run.whole ? dweight : partials) + run.to * int64_t(width) + c;
  const auto old = run.whole && accumulate ? Pack<float, kWidth>::load(to) : Pack<float, kWidth>::zero();
  float sum[kWidth] = {};
#pragma unroll 4
  for (int i = run.begin; i < run.end; ++i) {
    const auto row = Pack<T, kWidth>::load(dy + order[i] * int64_t(width) + c);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sum[k] += row.get(k);
  }
#pragma unroll
  for (int k = 0; k < kWidth; ++k) sum[k] += old.get(k);
  Pack<float, kWidth>::from(sum).store(to);
}

__global__ void __launch_bounds__(kThreads)
    embedding_fold_kernel(const float* __restrict__ partials, const EmbeddingFold* __restrict__ folds,
                          float* __restrict__ dweight, int32_t width, bool accumulate) {
  const EmbeddingFold fold = folds[blockIdx.x];
  const int32_t c = blockIdx.y * kThreads + threadIdx.x;
  if (c >= width) return;
  float* to = dweight + fold.token * int64_t(width) + c;
  float sum = 0;
#pragma unroll 8
  for (int p = fold.begin; p < fold.end; ++p) sum += partials[p * int64_t(width) + c];
  *to = accumulate ? *to + sum : sum;
}

template <class T>
const T* device_array(const Tensor& uploaded) {
  return reinterpret_cast<const T*>(uploaded.data<uint8_t>());
}

}  // namespace

void embedding_fwd(Context& ctx, const std::vector<int32_t>& tokens, const Tensor& weight, const Tensor& y) {
  const int64_t vocab = weight.dim(0), width = weight.dim(1), count = int64_t(tokens.size());
  if (y.numel() == 0) return;
  const Tensor ids = upload(ctx, tokens);
  dispatch_cuda(weight.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto launch = [&](auto pack) {
      constexpr int kWidth = decltype(pack)::value;
      unsigned across = 32;
      while (across < kThreads && int64_t(across) * kWidth < width) across *= 2;
      const dim3 threads(across, kThreads / across);
      const unsigned blocks = unsigned(ceil_div(count, threads.y * kRows));
      embedding_kernel<T, kWidth><<<blocks, threads, 0, stream_of(ctx)>>>(
          device_array<int32_t>(ids), pointer<T>(weight), pointer<T>(y), count, vocab, int32_t(width));
    };
    rows_are_aligned({&weight, &y}, width, kVector<T>) ? launch(std::integral_constant<int, kVector<T>>{})
                                                       : launch(std::integral_constant<int, 1>{});
  });
  check_launch("embedding");
}

void embedding_bwd(Context& ctx, const Tensor& dy, const std::vector<int32_t>& tokens, const Tensor& dweight,
                   bool accumulate) {
  const int64_t vocab = dweight.dim(0), width = dweight.dim(1);
  if (!accumulate) dweight.set_zero();
  const SortedTokens sorted = sort_tokens(tokens, vocab);
  if (sorted.runs.empty() || width == 0) return;
  const Tensor order = upload(ctx, sorted.order), runs = upload(ctx, sorted.runs),
               folds = upload(ctx, sorted.folds);
  const Tensor partials = Tensor::empty(ctx, {sorted.partials, width}, DType::kF32);
  float* to = pointer<float>(dweight);
  const auto grid = [&](size_t blocks, int64_t columns) {
    return dim3(unsigned(blocks), unsigned(ceil_div(columns, kThreads)));
  };
  dispatch_cuda(dy.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto launch = [&](auto pack) {
      constexpr int kWidth = decltype(pack)::value;
      embedding_bwd_kernel<T, kWidth>
          <<<grid(sorted.runs.size(), ceil_div(width, kWidth)), kThreads, 0, stream_of(ctx)>>>(
              pointer<T>(dy), device_array<int32_t>(order), device_array<EmbeddingRun>(runs), to,
              partials.data<float>(), int32_t(width), accumulate);
    };
    rows_are_aligned({&dy, &dweight}, width, kVector<T>) ? launch(std::integral_constant<int, kVector<T>>{})
                                                         : launch(std::integral_constant<int, 1>{});
  });
  check_launch("embedding backward");
  if (sorted.folds.empty()) return;
  embedding_fold_kernel<<<grid(sorted.folds.size(), width), kThreads, 0, stream_of(ctx)>>>(
      partials.data<float>(), device_array<EmbeddingFold>(folds), to, int32_t(width), accumulate);
  check_launch("embedding fold");
}

}  // namespace spanwise::cuda
