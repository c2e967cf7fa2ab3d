#pragma once
// The stages of one chunk of one value head that scalar_decay and gated_delta share (formulas:
// scalar_decay.h; the delta rule passes its N for v). Matrices are row-major; a chunk has n ≤ C tokens, and
// its C × C tiles have row stride C. Triangular tiles are computed and read in blocks of rows, so that the
// half above the diagonal costs little: entries right of a diagonal block are never written nor read.

#include <cstddef>
#include <cstdint>

namespace spanwise::cpu {

/// Rows in memory, `stride` elements apart.
template <class T>
struct Strided {
  T* data;
  int64_t stride;
  T* row(int64_t i) const { return data + i * stride; }
  operator Strided<const T>() const { return {data, stride}; }
};

/// Hands out pieces of one thread's scratch memory. With base = nullptr it only counts, so the same
/// constructor that takes the pieces tells how many bytes they need.
class Scratch {
 public:
  explicit Scratch(std::byte* base) : base_(base) {}
  template <class T>
  T* take(int64_t count) {
    T* piece = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += (count * int64_t(sizeof(T)) + kAlign - 1) / kAlign * kAlign;
    return piece;
  }
  int64_t bytes() const { return used_; }

 private:
  static constexpr int64_t kAlign = 64;
  std::byte* base_;
  int64_t used_ = 0;
};

struct StateDims {
  int64_t K, V, C;  ///< key width, value width, tokens in the longest chunk
};

/// Which e^{G_i − G_j} are computed: between all tokens, as outputs and the delta rule need, or from every
/// token to the last, enough to move a state.
enum class DecayPairs { kAll, kToEnd };

/// Decay factors of one chunk. Sums of log decays are kept in double: behind a very fast decay, differences
/// of large float sums would lose the slow ones.
template <class T>
class ChunkDecay {
 public:
  ChunkDecay(const StateDims& dims, Scratch& scratch);
  /// log decays of n tokens, `g.stride` apart.
  void set_tokens(int64_t n, Strided<const T> g, DecayPairs pairs);
  /// The same log decay for n tokens; does nothing when it was set before.
  void set_constant(int64_t n, T g, DecayPairs pairs);

  T from_start(int64_t i) const { return from_start_[i]; }         ///< e^{G_i}
  T to_end(int64_t i) const { return between(n_ - 1)[i]; }         ///< e^{Ḡ − G_i}
  const T* between(int64_t i) const { return between_ + i * C_; }  ///< e^{G_i − G_j}, j ≤ i; kAll
  T total() const { return from_start_[n_ - 1]; }                  ///< e^{Ḡ}

 private:
  void exponentiate(int64_t n, DecayPairs pairs);
  int64_t C_, n_ = 0;
  bool constant_ = false;
  DecayPairs pairs_ = DecayPairs::kAll;
  T constant_log_ = 0;
  double* sums_;
  T *from_start_, *between_;
};

/// Σ g of n tokens, cut where e^Σ is zero in any case, so that sums of it stay finite.
template <class T>
double log_decay_sum(int64_t n, Strided<const T> g);

enum class Diagonal { kIncluded, kExcluded };

/// tile_ij = x_i · y_j for j ≤ i.
template <class T>
void lower_scores(const StateDims& dims, int64_t n, int64_t width, Strided<const T> x, Strided<const T> y,
                  T* tile);
/// tile_ij *= factor · row_factor_i · e^{G_i − G_j}, zero above the diagonal (or on it). row_factor may be
/// empty.
template <class T>
void mask_and_decay(const StateDims& dims, int64_t n, const ChunkDecay<T>& decay, T factor,
                    Strided<const T> row_factor, Diagonal diagonal, T* tile);
/// out = beta·out + tile·x, with a lower triangular tile.
template <class T>
void lower_times(const StateDims& dims, int64_t n, int64_t width, const T* tile, Strided<const T> x, T beta,
                 Strided<T> out);
/// out = beta·out + tileᵀ·x.
template <class T>
void lower_transposed_times(const StateDims& dims, int64_t n, int64_t width, const T* tile,
                            Strided<const T> x, T beta, Strided<T> out);
/// x ← (I + tile)⁻¹ x, reading the tile below its diagonal only: forward substitution.
template <class T>
void solve_unit_lower(const StateDims& dims, int64_t n, int64_t width, const T* tile, Strided<T> x);
/// x ← (I + tile)⁻ᵀ x.
template <class T>
void solve_unit_lower_transposed(const StateDims& dims, int64_t n, int64_t width, const T* tile,
                                 Strided<T> x);

/// One chunk's rows of one value head.
template <class T>
struct ChunkOperands {
  int64_t n;
  Strided<const T> q, k, v;
  int64_t v_width;        ///< columns of v; a wider state takes zeros in the others
  Strided<const T> beta;  ///< delta rule only
};

/// Reused by every chunk of a thread.
template <class T>
struct ChunkBuffers {
  ChunkBuffers(const StateDims& dims, Scratch& scratch)
      : tile(scratch.take<T>(dims.C * dims.C)),
        dtile(scratch.take<T>(dims.C * dims.C)),
        scaled_q(scratch.take<T>(dims.C * dims.K)),
        scaled_k(scratch.take<T>(dims.C * dims.K)) {}
  T *tile, *dtile, *scaled_q, *scaled_k;
};

/// out = s e^G∘(Q S₀) + A V. state_in nullptr: zero.
template <class T>
void chunk_output(const StateDims& dims, const ChunkOperands<T>& x, const ChunkDecay<T>& decay, T scale,
                  const T* state_in, const ChunkBuffers<T>& buffers, Strided<T> out);
/// out += s e^G∘(Q S₀)
template <class T>
void add_state_output(const StateDims& dims, const ChunkOperands<T>& x, const ChunkDecay<T>& decay, T scale,
                      const T* state_in, const ChunkBuffers<T>& buffers, Strided<T> out);
/// state = e^Ḡ state + K̃ᵀ V. With has_state false, state is not read.
template <class T>
void advance_state(const StateDims& dims, const ChunkOperands<T>& x, const ChunkDecay<T>& decay,
                   bool has_state, const ChunkBuffers<T>& buffers, T* state);

template <class T>
struct ChunkGradients {
  Strided<T> dq, dk, dv;
  double* dlog_sum;  ///< [n] dG, or nullptr: not wanted
};
/// Writes (=) the gradients of one chunk. state_in, dstate_out nullptr: zero.
template <class T>
void chunk_backward(const StateDims& dims, const ChunkOperands<T>& x, const ChunkDecay<T>& decay, T scale,
                    const T* state_in, const T* dstate_out, Strided<const T> dout,
                    const ChunkBuffers<T>& buffers, const ChunkGradients<T>& out);
/// What dstate_out adds in chunk_backward: writes (=) dk = e^{Ḡ−G}∘(V dS₁ᵀ), adds (+=) K̃ dS₁ to dv, and
/// writes its part of dG.
template <class T>
void chunk_state_backward(const StateDims& dims, const ChunkOperands<T>& x, const ChunkDecay<T>& decay,
                          const T* state_in, const T* dstate_out, const ChunkBuffers<T>& buffers,
                          const ChunkGradients<T>& out);
/// dv = K̃ dS₁ + Aᵀ dO, chunk_backward's. dstate_out nullptr: zero.
template <class T>
void chunk_value_gradients(const StateDims& dims, const ChunkOperands<T>& x, const ChunkDecay<T>& decay,
                           T scale, const T* dstate_out, Strided<const T> dout,
                           const ChunkBuffers<T>& buffers, Strided<T> dv);
/// dstate = e^Ḡ dstate + s (e^G∘Q)ᵀ dO. With has_dstate false, dstate is not read.
template <class T>
void retreat_state(const StateDims& dims, const ChunkOperands<T>& x, const ChunkDecay<T>& decay, T scale,
                   Strided<const T> dout, bool has_dstate, const ChunkBuffers<T>& buffers, T* dstate);

}  // namespace spanwise::cpu
