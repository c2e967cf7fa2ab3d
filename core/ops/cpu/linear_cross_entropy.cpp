#include "core/ops/linear_cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "core/ops/cpu/gemm.h"
#include "core/ops/cpu/parallel_for.h"
#include "core/ops/cpu/softmax_row.h"

namespace spanwise::cpu {

namespace {

constexpr int64_t kElemsPerBlock = 1 << 14;

// −log softmax(z)[label]; z becomes scale · (softmax(z) − onehot(label)).
template <class T>
double softmax_loss(T* z, int64_t vocab, int32_t label, T scale) {
  const T largest = max_of(z, vocab), target = z[label];
  const T sum = exp_shifted(z, vocab, largest);
  const T factor = scale / sum;
  for (int64_t v = 0; v < vocab; ++v) z[v] *= factor;
  z[label] -= scale;
  return std::log(double(sum)) + double(largest) - double(target);
}

}  // namespace

double linear_cross_entropy_fwd(Context& ctx, const Tensor& x, const Tensor& weight,
                                const std::vector<int32_t>& labels, const CrossEntropyOptions& options,
                                const CrossEntropyGrads& grads) {
  const int64_t vocab = weight.dim(0), width = weight.dim(1), rows = int64_t(labels.size());
  const int64_t chunk = std::min(options.chunk_rows, rows), stride = x.row_stride(width);
  if (grads.dweight.defined()) grads.dweight.fill(0.0);
  return dispatch_float(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const Tensor logits = Tensor::empty(ctx, {chunk, vocab}, x.dtype());
    std::vector<double> losses(static_cast<size_t>(chunk));
    const T *w = weight.data<T>(), scale = T(options.loss_scale);
    T* z = logits.data<T>();
    double total = 0;
    for (int64_t begin = 0; begin < rows; begin += chunk) {
      const int64_t n = std::min(chunk, rows - begin);
      const T* xc = x.data<T>() + begin * stride;
      gemm<T>(Trans::kNo, Trans::kYes, n, vocab, width, T(1), xc, stride, w, width, T(0), z, vocab);
      parallel_for(ctx, n, [&](int64_t r) {
        const int32_t label = labels[begin + r];
        const bool counts = label != kIgnoredLabel;
        losses[r] = counts ? softmax_loss(z + r * vocab, vocab, label, scale) : 0.0;
        if (!counts) std::fill_n(z + r * vocab, vocab, T(0));
      });
      for (int64_t r = 0; r < n; ++r) total += losses[r];
      if (grads.dx.defined()) {
        gemm<T>(Trans::kNo, Trans::kNo, n, width, vocab, T(1), z, vocab, w, width, T(0),
                grads.dx.data<T>() + begin * width, width);
      }
      if (grads.dweight.defined()) {
        gemm<T>(Trans::kYes, Trans::kNo, vocab, width, n, T(1), z, vocab, xc, stride, T(1),
                grads.dweight.data<T>(), width);
      }
    }
    return total * options.loss_scale;
  });
}

void scale_in_place(const Context& ctx, const Tensor& t, double factor) {
  dispatch_float(t.dtype(), [&](auto zero) {
    using T = decltype(zero);
    parallel_blocks(ctx, t.numel(), kElemsPerBlock, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) t.data<T>()[i] *= T(factor);
    });
  });
}

}  // namespace spanwise::cpu
