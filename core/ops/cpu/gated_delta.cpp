#include "core/ops/gated_delta.h"

#include "core/ops/cpu/gemm.h"
#include "core/ops/cpu/linear_family.h"
#include "core/ops/cpu/linear_step.h"

namespace spanwise::cpu {

namespace {

/// The state takes N, what the delta rule writes in place of v (gated_delta.h).
template <class T>
class DeltaValues {
 public:
  static constexpr DecayPairs kStatePairs = DecayPairs::kAll;

  DeltaValues(const StateDims& dims, Scratch& scratch)
      : dims_(dims),
        lambda_(scratch.take<T>(dims.C * dims.C)),
        dscores_(scratch.take<T>(dims.C * dims.C)),
        n_(scratch.take<T>(dims.C * dims.V)),
        z_(scratch.take<T>(dims.C * dims.V)),
        psi_(scratch.take<T>(dims.C * dims.K)),
        r_(scratch.take<T>(dims.C * dims.K)),
        scaled_k_(scratch.take<T>(dims.C * dims.K)) {}

  /// N = Θ (β∘(V − e^G∘(K S₀)))
  Strided<const T> make(const ChunkOperands<T>& x, const ChunkDecay<T>& decay, const T* state_in) {
    const int64_t K = dims_.K, V = dims_.V;
    make_lambda(x, decay);
    if (state_in) {
      gemm<T>(Trans::kNo, Trans::kNo, x.n, V, K, 1, x.k.data, x.k.stride, state_in, V, 0, n_, V);
    }
    for (int64_t i = 0; i < x.n; ++i) {
      const T beta = *x.beta.row(i), old = beta * decay.from_start(i);
      const T* v = x.v.row(i);
      T* row = n_ + i * V;
      if (state_in) {
#pragma omp simd
        for (int64_t c = 0; c < x.v_width; ++c) row[c] = beta * v[c] - old * row[c];
#pragma omp simd
        for (int64_t c = x.v_width; c < V; ++c) row[c] *= -old;
      } else {
#pragma omp simd
        for (int64_t c = 0; c < x.v_width; ++c) row[c] = beta * v[c];
        std::fill(row + x.v_width, row + V, T(0));
      }
    }
    solve_unit_lower<T>(dims_, x.n, V, lambda_, {n_, V});
    return {n_, V};
  }

  Strided<T> gradients(Strided<T>) {
    return {z_, dims_.V};
  }

  /// z_ holds dN; N and Λ are those of the last make().
  void backward(const ChunkOperands<T>& x, const ChunkDecay<T>& decay, const T* state_in,
                const ChunkGradients<T>& grads, Strided<T> dv, Strided<T> dbeta) {
    const int64_t K = dims_.K, V = dims_.V;
    solve_gradients(x);
    lower_scores<T>(dims_, x.n, V, {z_, V}, {n_, V}, dscores_);
    mask_and_decay<T>(dims_, x.n, decay, -1, {}, Diagonal::kExcluded, dscores_);
    if (state_in) gemm<T>(Trans::kNo, Trans::kYes, x.n, K, V, -1, z_, V, state_in, V, 0, psi_, K);
    for (int64_t i = 0; i < x.n && state_in; ++i) {
      const T from_start = decay.from_start(i);
      T* psi = psi_ + i * K;
#pragma omp simd
      for (int64_t c = 0; c < K; ++c) psi[c] *= from_start;
    }
    lower_times<T>(dims_, x.n, K, dscores_, x.k, state_in ? 1 : 0, {psi_, K});
    lower_transposed_times<T>(dims_, x.n, K, dscores_, {scaled_k_, K}, 0, {r_, K});
    for (int64_t i = 0; i < x.n; ++i) {
      const T beta = *x.beta.row(i);
      const T *k = x.k.row(i), *v = x.v.row(i), *z = z_ + i * V, *psi = psi_ + i * K, *r = r_ + i * K;
      T *dk = grads.dk.row(i), *dv_row = dv.row(i);
      T k_psi = 0, k_r = 0, z_v = 0;
#pragma omp simd reduction(+ : k_psi, k_r)
      for (int64_t c = 0; c < K; ++c) {
        dk[c] += beta * psi[c] + r[c];
        k_psi += k[c] * psi[c];
        k_r += k[c] * r[c];
      }
#pragma omp simd reduction(+ : z_v)
      for (int64_t c = 0; c < V; ++c) {
        dv_row[c] = beta * z[c];
        z_v += z[c] * v[c];
      }
      *dbeta.row(i) = z_v + k_psi;
      if (grads.dlog_sum) grads.dlog_sum[i] += double(beta * k_psi - k_r);
    }
  }

  void begin_retreat(const ChunkOperands<T>& x, const ChunkDecay<T>& decay, T scale, const T* dstate_out,
                     Strided<const T> dout, const ChunkBuffers<T>& buffers) {
    chunk_value_gradients<T>(dims_, x, decay, scale, dstate_out, dout, buffers, {z_, dims_.V});
    make_lambda(x, decay);
    solve_gradients(x);
  }

  /// dS₀ −= (β e^G∘K)ᵀ Z, with what backward() or begin_retreat() left.
  void retreat(const ChunkOperands<T>& x, const ChunkDecay<T>& decay, T* dstate) {
    const int64_t K = dims_.K, V = dims_.V;
    for (int64_t i = 0; i < x.n; ++i) {
      const T from_start = decay.from_start(i);
      T* row = scaled_k_ + i * K;
#pragma omp simd
      for (int64_t c = 0; c < K; ++c) row[c] *= from_start;
    }
    gemm<T>(Trans::kYes, Trans::kNo, K, V, x.n, -1, scaled_k_, K, z_, V, 1, dstate, V);
  }

 private:
  void make_lambda(const ChunkOperands<T>& x, const ChunkDecay<T>& decay) {
    lower_scores<T>(dims_, x.n, dims_.K, x.k, x.k, lambda_);
    mask_and_decay<T>(dims_, x.n, decay, 1, x.beta, Diagonal::kExcluded, lambda_);
  }

  /// Z from the dN in z_, and β∘K.
  void solve_gradients(const ChunkOperands<T>& x) {
    const int64_t K = dims_.K;
    solve_unit_lower_transposed<T>(dims_, x.n, dims_.V, lambda_, {z_, dims_.V});
    for (int64_t i = 0; i < x.n; ++i) {
      const T beta = *x.beta.row(i);
      const T* k = x.k.row(i);
      T* scaled = scaled_k_ + i * K;
#pragma omp simd
      for (int64_t c = 0; c < K; ++c) scaled[c] = beta * k[c];
    }
  }

  StateDims dims_;
  T *lambda_, *dscores_, *n_, *z_, *psi_, *r_, *scaled_k_;
};

}  // namespace

LinearStateKernels gated_delta_kernels() {
  LinearStateKernels kernels = linear_family_kernels<DeltaValues>();
  kernels.step = linear_step<StateWrite::kDelta>;
  return kernels;
}

}  // namespace spanwise::cpu
