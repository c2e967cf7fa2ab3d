#include "core/ops/cpu/linear_step.h"

#include <cmath>

#include "core/ops/cpu/column_sums.h"

namespace spanwise::cpu {

void linear_step(Context& ctx, const LinearStateStep& step, const Tensor& out) {
  const int64_t B = step.q.dim(0), H = step.q.dim(1), K = step.q.dim(2), HV = step.v.dim(1),
                V = step.v.dim(2);
  const Rows q_rows(step.q, K), k_rows(step.k, K), v_rows(step.v, V), log_rows(step.log_decay, 1),
      beta_rows(step.beta, 1);
  dispatch_float(step.q.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const Tensor written = Tensor::empty(ctx, {B, HV, V}, step.q.dtype());
    parallel_for(ctx, B * HV, [&](int64_t u) {
      const int64_t key_row = u / HV * H + u % HV * H / HV;
      const T *q = q_rows.at<T>(key_row), *k = k_rows.at<T>(key_row), *v = v_rows.at<T>(u);
      T *S = step.state.data<T>() + u * K * V, *w = written.data<T>() + u * V, *o = out.data<T>() + u * V;
      T log_decay = 0;
      if (step.log_decay.defined()) log_decay = *log_rows.at<T>(u);
      if (step.head_log_decay.defined()) log_decay = step.head_log_decay.data<T>()[u % HV];
      const T decay = std::exp(log_decay);
      std::copy_n(v, V, w);
      if (step.beta.defined()) {
        const T beta = *beta_rows.at<T>(u);
        for (int64_t r = 0; r < K; ++r) {
          for (int64_t c = 0; c < V; ++c) w[c] -= decay * k[r] * S[r * V + c];
        }
        for (int64_t c = 0; c < V; ++c) w[c] *= beta;
      }
      std::fill_n(o, V, T(0));
      for (int64_t r = 0; r < K; ++r) {
        const T query = T(step.scale) * q[r];
        T* row = S + r * V;
        for (int64_t c = 0; c < V; ++c) {
          row[c] = decay * row[c] + k[r] * w[c];
          o[c] += query * row[c];
        }
      }
    });
  });
}

}  // namespace spanwise::cpu
