#include "core/ops/linear_cross_entropy.h"

#include <algorithm>

#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/common/linear_calls.h"
#include "core/ops/cuda/common/vector.cuh"
#include "core/upload.h"

namespace spanwise::cuda {

namespace {

constexpr int kThreads = 512;
// Vectors of a row that a thread keeps in registers from pass to pass: 32,768 BF16 logits a block. What a
// longer row has beyond them is read again, from L2. Kernels of one pass only want loads in flight.
constexpr int kAllPasses = 8, kOnePass = 4;

/// exp(x − largest).
template <class T>
class Exponential {
 public:
  explicit __device__ Exponential(float largest) : largest_(sizeof(T) == 2 ? largest * kLog2E : largest) {}
  __device__ __forceinline__ float operator()(float x) const {
    if constexpr (sizeof(T) == 2) {
      float y;  // one multiply-add and one special-function instruction
      asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(fmaf(x, kLog2E, -largest_)));
      return y;
    } else {
      return expf(x - largest_);
    }
  }

 private:
  static constexpr float kLog2E = 1.4426950408889634f;
  float largest_;
};

__device__ __forceinline__ float block_max(float x, float* scratch) {
  x = warp_max(x);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  x = scratch[0];
#pragma unroll
  for (int w = 1; w < kThreads / 32; ++w) x = fmaxf(x, scratch[w]);
  __syncthreads();
  return x;
}

/// A block's row of logits z [vocab]; what pads it to whole vectors counts as −∞.
template <class T, int kCached>
class LogitRow {
 public:
  __device__ LogitRow(T* z, int vocab) : z_(z), vocab_(vocab), vectors_((vocab + kWidth - 1) / kWidth) {
#pragma unroll
    for (int i = 0; i < kCached; ++i) {
      const int v = i * kThreads + threadIdx.x;
      if (v < vectors_) cached_[i] = load(v);
    }
  }

  __device__ float max(float* scratch) {
    float largest = -INFINITY;
    if constexpr (sizeof(T) == 2) {
      __nv_bfloat162 pair = __float2bfloat162_rn(-INFINITY);
      for_each([&](int, const uint4& raw) {
        const __nv_bfloat162* pairs = reinterpret_cast<const __nv_bfloat162*>(&raw);
#pragma unroll
        for (int i = 0; i < kWidth / 2; ++i) pair = __hmax2(pair, pairs[i]);
      });
      largest = fmaxf(__low2float(pair), __high2float(pair));
    } else {
      for_each([&](int, const uint4& raw) {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) largest = fmaxf(largest, value(raw, i));
      });
    }
    return block_max(largest, scratch);
  }

  __device__ float exp_sum(float largest, float* scratch) {
    const Exponential<T> exponential(largest);
    float sums[2] = {0, 0};
    for_each([&](int, const uint4& raw) {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) sums[i % 2] += exponential(value(raw, i));
    });
    return block_sum<kThreads>(sums[0] + sums[1], scratch);
  }

  /// z (=) scale · (softmax − onehot(label)); label −1: none.
  __device__ void write_gradient(float largest, float sum, int label, float scale) {
    const Exponential<T> exponential(largest);
    const float factor = scale / sum;
    for_each([&](int column, const uint4& raw) {
      float g[kWidth];
#pragma unroll
      for (int i = 0; i < kWidth; ++i) g[i] = factor * exponential(value(raw, i));
      if (unsigned(label - column) < unsigned(kWidth)) {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) g[i] -= column + i == label ? scale : 0.0f;
      }
      store_vector(z_ + column, g);
    });
  }

 private:
  static constexpr int kWidth = kVector<T>;

  static __device__ __forceinline__ float value(const uint4& raw, int i) {
    return to_float(reinterpret_cast<const T*>(&raw)[i]);
  }

  __device__ __forceinline__ uint4 load(int v) const {
    uint4 raw = reinterpret_cast<const uint4*>(z_)[v];
    if ((v + 1) * kWidth > vocab_) {
      T* values = reinterpret_cast<T*>(&raw);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        if (v * kWidth + i >= vocab_) values[i] = from_float<T>(-INFINITY);
      }
    }
    return raw;
  }

  /// fn(column of the first value, values).
  template <class F>
  __device__ __forceinline__ void for_each(F&& fn) {
#pragma unroll
    for (int i = 0; i < kCached; ++i) {
      const int v = i * kThreads + threadIdx.x;
      if (v < vectors_) fn(v * kWidth, cached_[i]);
    }
    for (int v = kCached * kThreads + threadIdx.x; v < vectors_; v += kThreads) fn(v * kWidth, load(v));
  }

  T* z_;
  int vocab_, vectors_;
  uint4 cached_[kCached];
};

/// The chunk of logits that a kernel works on, a row a block.
template <class T>
struct Chunk {
  T* logits;
  int64_t stride;
  int vocab;
  const int32_t* labels;
  int64_t first_label;  ///< of this part of the vocabulary

  __device__ T* row() const { return logits + blockIdx.x * stride; }
  __device__ bool counts() const { return labels[blockIdx.x] != kIgnoredLabel; }
  /// −1: in another part, or none.
  __device__ int label() const {
    const int64_t local = labels[blockIdx.x] - first_label;
    return counts() && local >= 0 && local < vocab ? int(local) : -1;
  }
  __device__ void clear_row() const {
    uint4* z = reinterpret_cast<uint4*>(row());
    for (int v = threadIdx.x; v < (vocab + kVector<T> - 1) / kVector<T>; v += kThreads) z[v] = uint4{};
  }
};

enum class Gradient { kNo, kYes };

// losses[row] = log Σ exp z − z[label]; with a gradient the logits become it.
template <class T, Gradient kGradient>
__global__ void __launch_bounds__(kThreads, 2)
    softmax_losses_kernel(Chunk<T> chunk, float scale, float* __restrict__ losses) {
  __shared__ float scratch[kThreads / 32];
  if (!chunk.counts()) {
    if (kGradient == Gradient::kYes) chunk.clear_row();
    if (threadIdx.x == 0) losses[blockIdx.x] = 0;
    return;
  }
  const int label = chunk.label();
  LogitRow<T, kAllPasses> row(chunk.row(), chunk.vocab);
  const float target = to_float(chunk.row()[label]);
  const float largest = row.max(scratch),
              sum = row.exp_sum(largest, scratch);  // everybody has read the target
  if (kGradient == Gradient::kYes) row.write_gradient(largest, sum, label, scale);
  if (threadIdx.x == 0) losses[blockIdx.x] = logf(sum) + largest - target;
}

// The same of a vocabulary in parts: maxima [n], then sums and target logits [2, n] are reduced in between.
template <class T>
__global__ void __launch_bounds__(kThreads, 2) maxima_kernel(Chunk<T> chunk, float* __restrict__ maxima) {
  __shared__ float scratch[kThreads / 32];
  const float largest = LogitRow<T, kOnePass>(chunk.row(), chunk.vocab).max(scratch);
  if (threadIdx.x == 0) maxima[blockIdx.x] = largest;
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    exp_sums_kernel(Chunk<T> chunk, const float* __restrict__ maxima, float* __restrict__ sums) {
  __shared__ float scratch[kThreads / 32];
  const float sum = LogitRow<T, kOnePass>(chunk.row(), chunk.vocab).exp_sum(maxima[blockIdx.x], scratch);
  if (threadIdx.x > 0) return;
  const int label = chunk.label();
  sums[blockIdx.x] = sum;
  sums[gridDim.x + blockIdx.x] = label >= 0 ? to_float(chunk.row()[label]) : 0.0f;
}

template <class T, Gradient kGradient>
__global__ void __launch_bounds__(kThreads, 2)
    finish_kernel(Chunk<T> chunk, const float* __restrict__ maxima, const float* __restrict__ sums,
                  float scale, float* __restrict__ losses) {
  const bool counts = chunk.counts();
  const float largest = maxima[blockIdx.x], sum = sums[blockIdx.x];
  if (kGradient == Gradient::kYes) {
    if (counts) {
      LogitRow<T, kOnePass>(chunk.row(), chunk.vocab).write_gradient(largest, sum, chunk.label(), scale);
    } else {
      chunk.clear_row();
    }
  }
  if (threadIdx.x == 0)
    losses[blockIdx.x] = counts ? logf(sum) + largest - sums[gridDim.x + blockIdx.x] : 0.0f;
}

// One block; in double and in a fixed order.
__global__ void __launch_bounds__(kThreads) total_loss_kernel(const float* __restrict__ losses, int64_t rows,
                                                              double scale, float* __restrict__ loss) {
  __shared__ double sums[kThreads];
  double sum = 0;
  for (int64_t r = threadIdx.x; r < rows; r += kThreads) sum += double(losses[r]);
  sums[threadIdx.x] = sum;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) *loss = float(sums[0] * scale);
}

template <class T, Gradient kGradient>
void softmax_losses(Context& ctx, const Chunk<T>& chunk, int64_t rows, float scale, const DimPart& part,
                    float* losses) {
  const cudaStream_t stream = stream_of(ctx);
  const unsigned blocks = unsigned(rows);
  if (!part.divided()) {
    softmax_losses_kernel<T, kGradient><<<blocks, kThreads, 0, stream>>>(chunk, scale, losses);
  } else {
    const Tensor maxima = Tensor::empty(ctx, {rows}, DType::kF32);
    const Tensor sums = Tensor::empty(ctx, {2, rows}, DType::kF32);
    maxima_kernel<T><<<blocks, kThreads, 0, stream>>>(chunk, pointer<float>(maxima));
    part.max(maxima);
    exp_sums_kernel<T><<<blocks, kThreads, 0, stream>>>(chunk, pointer<float>(maxima), pointer<float>(sums));
    part.sum(sums);
    finish_kernel<T, kGradient>
        <<<blocks, kThreads, 0, stream>>>(chunk, pointer<float>(maxima), pointer<float>(sums), scale, losses);
  }
  check_launch("linear_cross_entropy");
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    scale_kernel(T* __restrict__ x, int64_t vectors, int64_t numel, const float* __restrict__ factor) {
  const float f = *factor;
  if (f == 1.0f) return;
  const int64_t stride = int64_t(gridDim.x) * kThreads, first = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t v = first; v < vectors; v += stride) {
    float values[kVector<T>];
    load_vector(x + v * kVector<T>, values);
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) values[i] *= f;
    store_vector(x + v * kVector<T>, values);
  }
  for (int64_t i = vectors * kVector<T> + first; i < numel; i += stride)
    x[i] = from_float<T>(to_float(x[i]) * f);
}

}  // namespace

void linear_cross_entropy_fwd(Context& ctx, const Tensor& x, const Tensor& weight,
                              const std::vector<int32_t>& labels, const CrossEntropyOptions& options,
                              const CrossEntropyGrads& grads, const Tensor& loss) {
  const int64_t vocab = weight.dim(0), rows = int64_t(labels.size());
  const int64_t chunk_rows = std::min(options.chunk_rows, rows), stride = logits_stride(vocab);
  SPANWISE_CHECK(vocab < INT32_MAX, "a vocabulary of {}; less than 2^31 is supported", vocab);
  if (rows == 0 && grads.dweight.defined()) grads.dweight.set_zero();
  const Tensor device_labels = upload(ctx, labels), losses = Tensor::empty(ctx, {rows}, DType::kF32);
  dispatch_cuda(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const Tensor logits = Tensor::empty(ctx, {chunk_rows, stride}, x.dtype());
    for (int64_t begin = 0; begin < rows; begin += chunk_rows) {
      const int64_t n = std::min(chunk_rows, rows - begin);
      const CrossEntropyChunk products{x, weight, logits, begin, n};
      gemm(ctx, products.logits_call());
      const Chunk<T> chunk{pointer<T>(logits), stride, int(vocab),
                           reinterpret_cast<const int32_t*>(device_labels.raw()) + begin, options.part.begin};
      const float scale = float(options.loss_scale);
      float* chunk_losses = pointer<float>(losses) + begin;
      if (!grads.dx.defined() && !grads.dweight.defined()) {
        softmax_losses<T, Gradient::kNo>(ctx, chunk, n, scale, options.part, chunk_losses);
        continue;
      }
      softmax_losses<T, Gradient::kYes>(ctx, chunk, n, scale, options.part, chunk_losses);
      if (grads.dx.defined()) gemm(ctx, products.dx_call(grads.dx));
      if (grads.dweight.defined()) gemm(ctx, products.dweight_call(grads.dweight));
    }
  });
  total_loss_kernel<<<1, kThreads, 0, stream_of(ctx)>>>(pointer<float>(losses), rows, options.loss_scale,
                                                        pointer<float>(loss));
  check_launch("linear_cross_entropy loss");
}

void scale_in_place(const Context& ctx, const Tensor& t, const Tensor& factor) {
  if (t.numel() == 0) return;
  dispatch_cuda(t.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const bool aligned = reinterpret_cast<uintptr_t>(t.raw()) % 16 == 0;
    const int64_t vectors = aligned ? t.numel() / kVector<T> : 0;
    const int64_t work = vectors > 0 ? vectors : t.numel();
    const unsigned blocks = unsigned(std::min<int64_t>(ceil_div(work, kThreads), 132 * 4));
    scale_kernel<T>
        <<<blocks, kThreads, 0, stream_of(ctx)>>>(pointer<T>(t), vectors, t.numel(), pointer<float>(factor));
  });
  check_launch("scale_in_place");
}

}  // namespace spanwise::cuda
