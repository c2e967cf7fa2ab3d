#include "core/ops/cpu/linear_step.h"

#include <cmath>

#include "core/ops/cpu/column_sums.h"

namespace spanwise::cpu {

template <StateWrite kWrite>
void linear_step(Context& ctx, const LinearOperands<Tensor>& x, double scale, const Tensor& out) {
  const LinearStateShape s = shape_of(x);
  const int64_t B = s.rows, H = s.key_heads, K = s.key_dim, HV = s.value_heads, V = s.value_dim;
  const Rows q_rows(x.q, K), k_rows(x.k, K), v_rows(x.v, V), log_rows(x.log_decay, 1), beta_rows(x.beta, 1);
  dispatch_float(s.dtype, [&](auto zero) {
    using T = decltype(zero);
    const Tensor written = Tensor::empty(ctx, out.shape(), out.dtype());
    parallel_for(ctx, B * HV, [&](int64_t u) {
      const int64_t key_row = u / HV * H + u % HV * H / HV;
      const T *q = q_rows.at<T>(key_row), *k = k_rows.at<T>(key_row), *v = v_rows.at<T>(u);
      T *S = x.initial_state.data<T>() + u * K * V, *w = written.data<T>() + u * V,
        *o = out.data<T>() + u * V;
      T log_decay = 0;
      if (x.log_decay.defined()) log_decay = *log_rows.at<T>(u);
      if (x.head_log_decay.defined()) log_decay = x.head_log_decay.data<T>()[u % HV];
      const T decay = std::exp(log_decay);
      std::copy_n(v, V, w);
      if (kWrite == StateWrite::kDelta) {
        const T beta = *beta_rows.at<T>(u);
        for (int64_t r = 0; r < K; ++r) {
          for (int64_t c = 0; c < V; ++c) w[c] -= decay * k[r] * S[r * V + c];
        }
        for (int64_t c = 0; c < V; ++c) w[c] *= beta;
      }
      std::fill_n(o, V, T(0));
      for (int64_t r = 0; r < K; ++r) {
        const T query = T(scale) * q[r];
        T* row = S + r * V;
        for (int64_t c = 0; c < V; ++c) {
          row[c] = decay * row[c] + k[r] * w[c];
          o[c] += query * row[c];
        }
      }
    });
  });
}

template void linear_step<StateWrite::kValue>(Context&, const LinearOperands<Tensor>&, double, const Tensor&);
template void linear_step<StateWrite::kDelta>(Context&, const LinearOperands<Tensor>&, double, const Tensor&);

}  // namespace spanwise::cpu
