#include "core/ops/linear_cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "core/ops/cpu/gemm.h"
#include "core/ops/cpu/parallel_for.h"
#include "core/ops/cpu/softmax_row.h"

namespace spanwise::cpu {

namespace {

constexpr int64_t kElemsPerBlock = 1 << 14;

// Losses of the rows of a chunk of logits z [num_rows, vocab], 0 without a label; z becomes the gradient of
// scale · Σ losses. A row may go on in other parts: its maximum, then its sum of exponentials and its target
// logit are reduced over them.
template <class T>
void softmax_losses(Context& ctx, T* z, int64_t vocab, int64_t num_rows, const int32_t* labels, T scale,
                    const DimPart& part, double* losses) {
  const Tensor maxima = Tensor::empty(ctx, {num_rows}, dtype_of<T>());
  const Tensor sums = Tensor::empty(ctx, {2, num_rows}, dtype_of<T>());
  T *largest = maxima.data<T>(), *exp_sum = sums.data<T>(), *target = exp_sum + num_rows;
  // −1: in another part, or none.
  const auto local_label = [&](int64_t r) {
    const int64_t label = labels[r] - part.begin;
    return labels[r] != kIgnoredLabel && label >= 0 && label < vocab ? label : -1;
  };
  const auto find_largest = [&](int64_t r) { largest[r] = max_of(z + r * vocab, vocab); };
  const auto sum_exponentials = [&](int64_t r) {
    const int64_t label = local_label(r);
    target[r] = label >= 0 ? z[r * vocab + label] : T(0);
    exp_sum[r] = exp_shifted(z + r * vocab, vocab, largest[r]);
  };
  const auto finish = [&](int64_t r) {
    T* row = z + r * vocab;
    const T factor = scale / exp_sum[r];
    for (int64_t v = 0; v < vocab; ++v) row[v] *= factor;
    if (const int64_t label = local_label(r); label >= 0) row[label] -= scale;
    losses[r] = std::log(double(exp_sum[r])) + double(largest[r]) - double(target[r]);
  };
  const auto ignore = [&](int64_t r) {
    std::fill_n(z + r * vocab, vocab, T(0));
    losses[r] = 0;
  };
  const auto counts = [&](int64_t r) { return labels[r] != kIgnoredLabel; };
  if (!part.divided()) {
    parallel_for(ctx, num_rows, [&](int64_t r) {
      if (!counts(r)) return ignore(r);
      find_largest(r);
      sum_exponentials(r);
      finish(r);
    });
    return;
  }
  parallel_for(ctx, num_rows, find_largest);
  part.max(maxima);
  parallel_for(ctx, num_rows, sum_exponentials);
  part.sum(sums);
  parallel_for(ctx, num_rows, [&](int64_t r) { counts(r) ? finish(r) : ignore(r); });
}

}  // namespace

void linear_cross_entropy_fwd(Context& ctx, const Tensor& x, const Tensor& weight,
                              const std::vector<int32_t>& labels, const CrossEntropyOptions& options,
                              const CrossEntropyGrads& grads, const Tensor& loss) {
  const int64_t vocab = weight.dim(0), width = weight.dim(1), rows = int64_t(labels.size());
  const int64_t chunk = std::min(options.chunk_rows, rows), stride = x.row_stride(width);
  if (grads.dweight.defined()) grads.dweight.fill(0.0);
  dispatch_float(x.dtype(), [&](auto zero) {
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
      softmax_losses(ctx, z, vocab, n, labels.data() + begin, scale, options.part, losses.data());
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
    loss.fill(total * options.loss_scale);
  });
}

void scale_in_place(const Context& ctx, const Tensor& t, const Tensor& factor) {
  dispatch_float(t.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T f = *factor.data<T>();
    if (f == T(1)) return;
    parallel_blocks(ctx, t.numel(), kElemsPerBlock, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) t.data<T>()[i] *= f;
    });
  });
}

}  // namespace spanwise::cpu
