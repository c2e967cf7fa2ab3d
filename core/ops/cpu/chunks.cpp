#include "core/ops/cpu/chunks.h"

#include <algorithm>
#include <type_traits>

#include "core/ops/cpu/gemm.h"
#include "core/ops/cpu/vector_exp.h"

namespace spanwise::cpu {

namespace {

// e^x for x ≤ 0, with 0 for what is too small to matter in any sum: products with such factors would be
// subnormal, which x86 computes a hundred times slower.
template <class T>
[[gnu::always_inline]] inline T decay_exp(T x) {
  constexpr T kSmallest = std::is_same_v<T, float> ? T(-69) : T(-667);
  return x < kSmallest ? T(0) : vector_exp(x);
}

// Rows a block of a triangular tile: small enough to skip most of the empty half, large enough for gemm.
constexpr int64_t kBlock = 32;
// Rows a block of a triangular solve: within it rows are substituted one by one, between blocks by gemm.
constexpr int64_t kSolveBlock = 16;
// e^-1000 is zero in double too, so cutting log decays there changes no factor, and infinities subtract.
constexpr double kSmallestLog = -1000.0;

template <class T>
T dot(const T* a, const T* b, int64_t n) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

template <class T>
ChunkDecay<T>::ChunkDecay(const StateDims& dims, Scratch& scratch)
    : C_(dims.C),
      sums_(scratch.take<double>(dims.C)),
      from_start_(scratch.take<T>(dims.C)),
      between_(scratch.take<T>(dims.C * dims.C)) {}

template <class T>
void ChunkDecay<T>::set_tokens(int64_t n, Strided<const T> g, DecayPairs pairs) {
  constant_ = false;
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sums_[i] = sum += std::max(double(*g.row(i)), kSmallestLog);
  exponentiate(n, pairs);
}

template <class T>
void ChunkDecay<T>::set_constant(int64_t n, T g, DecayPairs pairs) {
  const bool has_pairs = pairs_ == DecayPairs::kAll || pairs == DecayPairs::kToEnd;
  if (constant_ && has_pairs && n == n_ && g == constant_log_) return;
  constant_ = true;
  constant_log_ = g;
  for (int64_t i = 0; i < n; ++i) sums_[i] = double(i + 1) * std::max(double(g), kSmallestLog);
  exponentiate(n, pairs);
}

template <class T>
void ChunkDecay<T>::exponentiate(int64_t n, DecayPairs pairs) {
  n_ = n;
  pairs_ = pairs;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) from_start_[i] = decay_exp(T(sums_[i]));
  for (int64_t i = pairs == DecayPairs::kAll ? 0 : n - 1; i < n; ++i) {
    T* row = between_ + i * C_;
    const double sum = sums_[i];
#pragma omp simd
    for (int64_t j = 0; j <= i; ++j) row[j] = decay_exp(T(sum - sums_[j]));
  }
}

template <class T>
double log_decay_sum(int64_t n, Strided<const T> g) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::max(double(*g.row(i)), kSmallestLog);
  return sum;
}

template <class T>
void lower_scores(const StateDims& dims, int64_t n, int64_t width, Strided<const T> x, Strided<const T> y,
                  T* tile) {
  for (int64_t b = 0; b < n; b += kBlock) {
    const int64_t end = std::min(n, b + kBlock);
    gemm<T>(Trans::kNo, Trans::kYes, end - b, end, width, 1, x.row(b), x.stride, y.data, y.stride, 0,
            tile + b * dims.C, dims.C);
  }
}

template <class T>
void mask_and_decay(const StateDims& dims, int64_t n, const ChunkDecay<T>& decay, T factor,
                    Strided<const T> row_factor, Diagonal diagonal, T* tile) {
  for (int64_t i = 0; i < n; ++i) {
    const int64_t kept = diagonal == Diagonal::kIncluded ? i + 1 : i;
    const T f = row_factor.data ? factor * *row_factor.row(i) : factor;
    const T* e = decay.between(i);
    T* row = tile + i * dims.C;
#pragma omp simd
    for (int64_t j = 0; j < kept; ++j) row[j] *= f * e[j];
    std::fill(row + kept, row + std::min(n, (i / kBlock + 1) * kBlock), T(0));
  }
}

template <class T>
void lower_times(const StateDims& dims, int64_t n, int64_t width, const T* tile, Strided<const T> x, T beta,
                 Strided<T> out) {
  for (int64_t b = 0; b < n; b += kBlock) {
    const int64_t end = std::min(n, b + kBlock);
    gemm<T>(Trans::kNo, Trans::kNo, end - b, width, end, 1, tile + b * dims.C, dims.C, x.data, x.stride, beta,
            out.row(b), out.stride);
  }
}

template <class T>
void lower_transposed_times(const StateDims& dims, int64_t n, int64_t width, const T* tile,
                            Strided<const T> x, T beta, Strided<T> out) {
  for (int64_t b = 0; b < n; b += kBlock) {
    const int64_t end = std::min(n, b + kBlock);
    gemm<T>(Trans::kYes, Trans::kNo, end - b, width, n - b, 1, tile + b * dims.C + b, dims.C, x.row(b),
            x.stride, beta, out.row(b), out.stride);
  }
}

template <class T>
void solve_unit_lower(const StateDims& dims, int64_t n, int64_t width, const T* tile, Strided<T> x) {
  for (int64_t b = 0; b < n; b += kSolveBlock) {
    const int64_t end = std::min(n, b + kSolveBlock);
    if (b > 0) {
      gemm<T>(Trans::kNo, Trans::kNo, end - b, width, b, -1, tile + b * dims.C, dims.C, x.data, x.stride, 1,
              x.row(b), x.stride);
    }
    for (int64_t i = b + 1; i < end; ++i) {
      T* xi = x.row(i);
      for (int64_t j = b; j < i; ++j) {
        const T l = tile[i * dims.C + j];
        const T* xj = x.row(j);
#pragma omp simd
        for (int64_t c = 0; c < width; ++c) xi[c] -= l * xj[c];
      }
    }
  }
}

template <class T>
void solve_unit_lower_transposed(const StateDims& dims, int64_t n, int64_t width, const T* tile,
                                 Strided<T> x) {
  for (int64_t b = (n - 1) / kSolveBlock * kSolveBlock; b >= 0; b -= kSolveBlock) {
    const int64_t end = std::min(n, b + kSolveBlock);
    if (end < n) {
      gemm<T>(Trans::kYes, Trans::kNo, end - b, width, n - end, -1, tile + end * dims.C + b, dims.C,
              x.row(end), x.stride, 1, x.row(b), x.stride);
    }
    for (int64_t i = end - 2; i >= b; --i) {
      T* xi = x.row(i);
      for (int64_t j = i + 1; j < end; ++j) {
        const T l = tile[j * dims.C + i];
        const T* xj = x.row(j);
#pragma omp simd
        for (int64_t c = 0; c < width; ++c) xi[c] -= l * xj[c];
      }
    }
  }
}

namespace {

/// s e^G∘Q
template <class T>
void scale_queries(const StateDims& dims, const ChunkOperands<T>& x, const ChunkDecay<T>& decay, T scale,
                   T* out) {
  for (int64_t i = 0; i < x.n; ++i) {
    const T f = scale * decay.from_start(i);
    const T* q = x.q.row(i);
    T* row = out + i * dims.K;
#pragma omp simd
    for (int64_t c = 0; c < dims.K; ++c) row[c] = f * q[c];
  }
}

/// K̃ = e^{Ḡ−G}∘K
template <class T>
void scale_keys(const StateDims& dims, const ChunkOperands<T>& x, const ChunkDecay<T>& decay, T* out) {
  for (int64_t i = 0; i < x.n; ++i) {
    const T f = decay.to_end(i);
    const T* k = x.k.row(i);
    T* row = out + i * dims.K;
#pragma omp simd
    for (int64_t c = 0; c < dims.K; ++c) row[c] = f * k[c];
  }
}

/// row_i *= factor(i); returns Σ_i row_i · with_i, or 0 without `with`.
template <class T, class F>
double scale_rows(int64_t n, int64_t width, F&& factor, Strided<const T> with, Strided<T> rows) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const T f = factor(i);
    T* row = rows.row(i);
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) row[c] *= f;
    if (with.data) sum += dot<T>(row, with.row(i), width);
  }
  return sum;
}

}  // namespace

template <class T>
void chunk_output(const StateDims& dims, const ChunkOperands<T>& x, const ChunkDecay<T>& decay, T scale,
                  const T* state_in, const ChunkBuffers<T>& buffers, Strided<T> out) {
  lower_scores<T>(dims, x.n, dims.K, x.q, x.k, buffers.tile);
  mask_and_decay<T>(dims, x.n, decay, scale, {}, Diagonal::kIncluded, buffers.tile);
  lower_times<T>(dims, x.n, dims.V, buffers.tile, x.v, 0, out);
  if (state_in) add_state_output(dims, x, decay, scale, state_in, buffers, out);
}

template <class T>
void add_state_output(const StateDims& dims, const ChunkOperands<T>& x, const ChunkDecay<T>& decay, T scale,
                      const T* state_in, const ChunkBuffers<T>& buffers, Strided<T> out) {
  scale_queries(dims, x, decay, scale, buffers.scaled_q);
  gemm<T>(Trans::kNo, Trans::kNo, x.n, dims.V, dims.K, 1, buffers.scaled_q, dims.K, state_in, dims.V, 1,
          out.data, out.stride);
}

template <class T>
void advance_state(const StateDims& dims, const ChunkOperands<T>& x, const ChunkDecay<T>& decay,
                   bool has_state, const ChunkBuffers<T>& buffers, T* state) {
  scale_keys(dims, x, decay, buffers.scaled_k);
  gemm<T>(Trans::kYes, Trans::kNo, dims.K, dims.V, x.n, 1, buffers.scaled_k, dims.K, x.v.data, x.v.stride,
          has_state ? decay.total() : T(0), state, dims.V);
}

namespace {

/// dk = e^{Ḡ−G}∘(V dS₁ᵀ). Returns ⟨S₁, dS₁⟩ = e^Ḡ ⟨S₀, dS₁⟩ + ⟨K, dk⟩ if dG is wanted: S₁ itself is not
/// needed.
template <class T>
double state_key_gradients(const StateDims& dims, const ChunkOperands<T>& x, const ChunkDecay<T>& decay,
                           const T* state_in, const T* dstate_out, const ChunkGradients<T>& out) {
  const int64_t K = dims.K, V = dims.V;
  gemm<T>(Trans::kNo, Trans::kYes, x.n, K, V, 1, x.v.data, x.v.stride, dstate_out, V, 0, out.dk.data,
          out.dk.stride);
  const Strided<const T> with = out.dlog_sum ? x.k : Strided<const T>{};
  double last = scale_rows<T>(
      x.n, K, [&](int64_t i) { return decay.to_end(i); }, with, out.dk);
  if (out.dlog_sum && state_in) last += double(decay.total()) * double(dot<T>(state_in, dstate_out, K * V));
  return last;
}

/// dv = beta dv + K̃ dS₁
template <class T>
void state_value_gradients(const StateDims& dims, const ChunkOperands<T>& x, const ChunkDecay<T>& decay,
                           const T* dstate_out, const ChunkBuffers<T>& buffers, T beta, Strided<T> dv) {
  scale_keys(dims, x, decay, buffers.scaled_k);
  gemm<T>(Trans::kNo, Trans::kNo, x.n, dims.V, dims.K, 1, buffers.scaled_k, dims.K, dstate_out, dims.V, beta,
          dv.data, dv.stride);
}

}  // namespace

template <class T>
void chunk_backward(const StateDims& dims, const ChunkOperands<T>& x, const ChunkDecay<T>& decay, T scale,
                    const T* state_in, const T* dstate_out, Strided<const T> dout,
                    const ChunkBuffers<T>& buffers, const ChunkGradients<T>& out) {
  const int64_t K = dims.K, V = dims.V;
  const int64_t n = x.n;
  T* B = buffers.dtile;
  lower_scores<T>(dims, n, V, dout, x.v, B);
  mask_and_decay<T>(dims, n, decay, scale, {}, Diagonal::kIncluded, B);

  if (state_in) {
    gemm<T>(Trans::kNo, Trans::kYes, n, K, V, 1, dout.data, dout.stride, state_in, V, 0, out.dq.data,
            out.dq.stride);
    scale_rows<T>(
        n, K, [&](int64_t i) { return scale * decay.from_start(i); }, {}, out.dq);
  }
  lower_times<T>(dims, n, K, B, x.k, state_in ? 1 : 0, out.dq);

  double last = 0;
  if (dstate_out) last = state_key_gradients(dims, x, decay, state_in, dstate_out, out);
  lower_transposed_times<T>(dims, n, K, B, x.q, dstate_out ? 1 : 0, out.dk);
  chunk_value_gradients<T>(dims, x, decay, scale, dstate_out, dout, buffers, out.dv);

  if (!out.dlog_sum) return;
  for (int64_t i = 0; i < n; ++i) {
    const T *q = x.q.row(i), *dq = out.dq.row(i), *k = x.k.row(i), *dk = out.dk.row(i);
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < K; ++c) sum += q[c] * dq[c] - k[c] * dk[c];
    out.dlog_sum[i] = double(sum);
  }
  out.dlog_sum[n - 1] += last;
}

template <class T>
void chunk_state_backward(const StateDims& dims, const ChunkOperands<T>& x, const ChunkDecay<T>& decay,
                          const T* state_in, const T* dstate_out, const ChunkBuffers<T>& buffers,
                          const ChunkGradients<T>& out) {
  const double last = state_key_gradients(dims, x, decay, state_in, dstate_out, out);
  state_value_gradients<T>(dims, x, decay, dstate_out, buffers, 1, out.dv);
  if (!out.dlog_sum) return;
  for (int64_t i = 0; i < x.n; ++i) out.dlog_sum[i] = -double(dot<T>(x.k.row(i), out.dk.row(i), dims.K));
  out.dlog_sum[x.n - 1] += last;
}

template <class T>
void chunk_value_gradients(const StateDims& dims, const ChunkOperands<T>& x, const ChunkDecay<T>& decay,
                           T scale, const T* dstate_out, Strided<const T> dout,
                           const ChunkBuffers<T>& buffers, Strided<T> dv) {
  const int64_t K = dims.K, V = dims.V;
  T* A = buffers.tile;
  lower_scores<T>(dims, x.n, K, x.q, x.k, A);
  mask_and_decay<T>(dims, x.n, decay, scale, {}, Diagonal::kIncluded, A);
  if (dstate_out) state_value_gradients<T>(dims, x, decay, dstate_out, buffers, 0, dv);
  lower_transposed_times<T>(dims, x.n, V, A, dout, dstate_out ? 1 : 0, dv);
}

template <class T>
void retreat_state(const StateDims& dims, const ChunkOperands<T>& x, const ChunkDecay<T>& decay, T scale,
                   Strided<const T> dout, bool has_dstate, const ChunkBuffers<T>& buffers, T* dstate) {
  scale_queries(dims, x, decay, scale, buffers.scaled_q);
  gemm<T>(Trans::kYes, Trans::kNo, dims.K, dims.V, x.n, 1, buffers.scaled_q, dims.K, dout.data, dout.stride,
          has_dstate ? decay.total() : T(0), dstate, dims.V);
}

#define SPANWISE_CHUNKS(T)                                                                                   \
  template class ChunkDecay<T>;                                                                              \
  template double log_decay_sum(int64_t, Strided<const T>);                                                  \
  template void lower_scores(const StateDims&, int64_t, int64_t, Strided<const T>, Strided<const T>, T*);    \
  template void mask_and_decay(const StateDims&, int64_t, const ChunkDecay<T>&, T, Strided<const T>,         \
                               Diagonal, T*);                                                                \
  template void lower_times(const StateDims&, int64_t, int64_t, const T*, Strided<const T>, T, Strided<T>);  \
  template void lower_transposed_times(const StateDims&, int64_t, int64_t, const T*, Strided<const T>, T,    \
                                       Strided<T>);                                                          \
  template void solve_unit_lower(const StateDims&, int64_t, int64_t, const T*, Strided<T>);                  \
  template void solve_unit_lower_transposed(const StateDims&, int64_t, int64_t, const T*, Strided<T>);       \
  template void chunk_output(const StateDims&, const ChunkOperands<T>&, const ChunkDecay<T>&, T, const T*,   \
                             const ChunkBuffers<T>&, Strided<T>);                                            \
  template void add_state_output(const StateDims&, const ChunkOperands<T>&, const ChunkDecay<T>&, T,         \
                                 const T*, const ChunkBuffers<T>&, Strided<T>);                              \
  template void advance_state(const StateDims&, const ChunkOperands<T>&, const ChunkDecay<T>&, bool,         \
                              const ChunkBuffers<T>&, T*);                                                   \
  template void chunk_backward(const StateDims&, const ChunkOperands<T>&, const ChunkDecay<T>&, T, const T*, \
                               const T*, Strided<const T>, const ChunkBuffers<T>&,                           \
                               const ChunkGradients<T>&);                                                    \
  template void chunk_state_backward(const StateDims&, const ChunkOperands<T>&, const ChunkDecay<T>&,        \
                                     const T*, const T*, const ChunkBuffers<T>&, const ChunkGradients<T>&);  \
  template void chunk_value_gradients(const StateDims&, const ChunkOperands<T>&, const ChunkDecay<T>&, T,    \
                                      const T*, Strided<const T>, const ChunkBuffers<T>&, Strided<T>);       \
  template void retreat_state(const StateDims&, const ChunkOperands<T>&, const ChunkDecay<T>&, T,            \
                              Strided<const T>, bool, const ChunkBuffers<T>&, T*);
SPANWISE_CHUNKS(float)
SPANWISE_CHUNKS(double)
#undef SPANWISE_CHUNKS

}  // namespace spanwise::cpu
