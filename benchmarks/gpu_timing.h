#pragma once
// Times work on a Context's stream by CUDA events: every repetition starts with a cold L2 cache, as Triton's
// do_bench does for the peers.

#include <cuda_runtime.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "core/rng.h"
#include "core/tensor.h"

namespace spanwise {

class GpuTimer {
 public:
  explicit GpuTimer(Context& ctx) : ctx_(ctx), cache_(Tensor::empty(ctx, {int64_t(256) << 20}, DType::kU8)) {
    cudaEventCreate(&begin_);
    cudaEventCreate(&end_);
  }
  ~GpuTimer() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  GpuTimer(const GpuTimer&) = delete;
  GpuTimer& operator=(const GpuTimer&) = delete;

  double median_ms(const std::function<void()>& run, int repeat = 30) const {
    for (int i = 0; i < 3; ++i) run();
    std::vector<float> times;
    for (int i = 0; i < repeat; ++i) {
      cache_.set_zero();
      cudaEventRecord(begin_, ctx_.stream());
      run();
      cudaEventRecord(end_, ctx_.stream());
      cudaEventSynchronize(end_);
      float ms = 0;
      cudaEventElapsedTime(&ms, begin_, end_);
      times.push_back(ms);
    }
    std::nth_element(times.begin(), times.begin() + repeat / 2, times.end());
    return times[size_t(repeat) / 2];
  }

 private:
  Context& ctx_;
  Tensor cache_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

/// scale · normal + shift, the same 1 M values over and over: large operands take no time to make.
inline Tensor random_on_gpu(Context& ctx, const Shape& shape, DType dtype, const char* name, double scale = 1,
                            double shift = 0) {
  const RandomStream random(1, name);
  const int64_t numel = shape.numel(), distinct = std::min(numel, int64_t(1) << 20);
  const Tensor tensor = Tensor::empty(ctx, shape, dtype);
  dispatch_storage(dtype, [&](auto zero) {
    using T = decltype(zero);
    std::vector<T> values;
    for (int64_t i = 0; i < distinct; ++i) values.push_back(T(scale * random.normal(uint64_t(i)) + shift));
    const Tensor block = Tensor::from(ctx, {distinct}, values);
    for (int64_t at = 0; at < numel; at += distinct) {
      const int64_t count = std::min(distinct, numel - at);
      tensor.slice_flat(at, {count}).copy_from(block.slice_flat(0, {count}));
    }
  });
  return tensor;
}

}  // namespace spanwise
