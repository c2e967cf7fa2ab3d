#pragma once
// The scan over chunks, forward and backward, for a family of linear attention with one decay a head. A unit
// of work is one segment of one value head; units do not depend on each other. What a family adds to the
// plain recurrence is a Values class:
//
//   Values(const StateDims&, Scratch&)
//   kStatePairs: the decay factors that make(), begin_retreat() and retreat() need
//   Strided<const T> make(chunk, decay, state_in): what the chunk writes into the state: v, or the delta
//       rule's N
//   Strided<T> gradients(dv): where chunk_backward puts the gradient of that
//   void backward(chunk, decay, state_in, chunk gradients, dv, dbeta): writes dv and dbeta from it, and adds
//       to the key and decay gradients
//   void begin_retreat(chunk, decay, scale, dstate_out, dout, buffers): what retreat() needs of backward()
//   void retreat(chunk, decay, dstate): its part of the state's gradient

#include <algorithm>

#include "core/ops/cpu/chunks.h"
#include "core/ops/cpu/parallel_for.h"
#include "core/ops/linear_kernels.h"

namespace spanwise::cpu {

/// One head's rows of a [B, T, heads, width] tensor, contiguous or a column block.
template <class T>
class HeadRows {
 public:
  HeadRows(const Tensor& t, int64_t heads, int64_t width) : width_(width) {
    if (!t.defined()) return;
    data_ = t.data<T>();
    stride_ = t.row_stride(heads * width);
  }
  Strided<T> at(int64_t token, int64_t head) const {
    if (!data_) return {nullptr, 0};
    return {data_ + token * stride_ + head * width_, stride_};
  }

 private:
  T* data_ = nullptr;
  int64_t stride_ = 0, width_;
};

/// The matrices of a [rows or chunks, HV, K, V] tensor.
template <class T>
class HeadStates {
 public:
  HeadStates(const Tensor& t, int64_t heads, const StateDims& dims)
      : data_(t.defined() ? t.data<T>() : nullptr), heads_(heads), elems_(dims.K * dims.V) {}
  bool defined() const { return data_; }
  T* at(int64_t index, int64_t head) const { return data_ + (index * heads_ + head) * elems_; }

 private:
  T* data_;
  int64_t heads_, elems_;
};

/// The only tensor that allocate_chunk_states() makes; undefined if nothing is saved.
inline Tensor chunk_states(const std::vector<Tensor>& saved) {
  return saved.empty() ? Tensor() : saved.front();
}

struct ScanUnit {
  ChunkList::SegmentChunks segment;
  int64_t head;
  Scratch& scratch;
};

/// `bytes` for each thread.
inline Tensor scan_pool(Context& ctx, int64_t bytes) {
  return Tensor::empty(ctx, {ctx.num_threads(), bytes}, DType::kU8);
}

/// fn(unit) for every unit of the segments `which` names, each thread with `bytes` of its own scratch. Heads
/// are the outer order, so that every thread gets as many tokens when heads divide by threads.
template <class F>
void for_each_unit(Context& ctx, const ChunkList& chunks, SegmentSet which, int64_t heads, int64_t bytes,
                   F&& fn) {
  const std::vector<ChunkList::SegmentChunks> segments = chunks.select(which);
  const Tensor pool = scan_pool(ctx, bytes);
  const int64_t num_segments = int64_t(segments.size()), units = heads * num_segments;
  // At least two indices: a lone unit must run inside a parallel region too, or gemm would use all threads
  // and results depend on their number.
  parallel_for(ctx, std::max<int64_t>(units, 2), [&](int64_t u) {
    if (u >= units) return;
    Scratch scratch(static_cast<std::byte*>(pool.raw()) + omp_get_thread_num() * bytes);
    fn(ScanUnit{segments[u % num_segments], u / num_segments, scratch});
  });
}

inline StateDims state_dims(const LinearStateCall& call) {
  return {call.q.dim(3), call.v.dim(3), call.chunks.max_length()};
}

/// Row access to a call's operands.
template <class T>
struct ScanOperands {
  explicit ScanOperands(const LinearStateCall& c)
      : H(c.q.dim(2)),
        HV(c.v.dim(2)),
        dims(state_dims(c)),
        q(c.q, H, dims.K),
        k(c.k, H, dims.K),
        v(c.v, HV, dims.V),
        log_decay(c.log_decay, HV, 1),
        beta(c.beta, HV, 1),
        head_log_decay(c.head_log_decay.defined() ? c.head_log_decay.to_vector<T>() : std::vector<T>(HV)),
        initial_states(c.initial_state, HV, dims),
        chunks(c.chunks) {}

  ChunkOperands<T> chunk(const ChunkList::Chunk& c, int64_t head) const {
    const int64_t key_head = head * H / HV;
    return {c.length, q.at(c.begin, key_head), k.at(c.begin, key_head), v.at(c.begin, head),
            dims.V,   beta.at(c.begin, head)};
  }
  void set_decay(const ChunkList::Chunk& c, int64_t head, DecayPairs pairs, ChunkDecay<T>& decay) const {
    const Strided<const T> g = log_decay.at(c.begin, head);
    if (g.data) {
      decay.set_tokens(c.length, g, pairs);
    } else {
      decay.set_constant(c.length, head_log_decay[head], pairs);
    }
  }
  int64_t state_elems() const { return dims.K * dims.V; }
  /// The state a unit starts from; nullptr: zero.
  const T* initial_state(const ScanUnit& unit) const {
    if (!unit.segment.continues || !initial_states.defined()) return nullptr;
    return initial_states.at(unit.segment.row, unit.head);
  }

  int64_t H, HV;
  StateDims dims;
  HeadRows<T> q, k, v, log_decay, beta;
  std::vector<T> head_log_decay;
  HeadStates<T> initial_states;
  const ChunkList& chunks;
};

template <class T, class Values>
struct ScanWorkspace {
  ScanWorkspace(const StateDims& state_dims, Scratch& scratch)
      : dims(state_dims),
        decay(dims, scratch),
        buffers(dims, scratch),
        values(dims, scratch),
        state(scratch.take<T>(dims.K * dims.V)),
        dlog_sum(scratch.take<double>(dims.C)) {}
  static int64_t bytes(const StateDims& dims) {
    Scratch counter(nullptr);
    ScanWorkspace workspace(dims, counter);
    return counter.bytes();
  }
  StateDims dims;
  ChunkDecay<T> decay;
  ChunkBuffers<T> buffers;
  Values values;
  T* state;  // backward: the state's gradient
  double* dlog_sum;
};

/// Moves w.state over a unit's segment. visit(chunk in the list, its operands with what it writes into the
/// state for v, the state before it or nullptr) comes before each step. w may be wider than x: Values then
/// makes zeros of the missing columns of v.
template <class T, class Values, class F>
void advance_segment(const ScanOperands<T>& x, const ScanUnit& unit, DecayPairs pairs, bool has_state,
                     ScanWorkspace<T, Values>& w, F&& visit) {
  for (int64_t i = unit.segment.first; i < unit.segment.last; ++i) {
    const ChunkList::Chunk& c = x.chunks.chunks()[i];
    ChunkOperands<T> chunk = x.chunk(c, unit.head);
    const T* state_in = has_state ? w.state : nullptr;
    x.set_decay(c, unit.head, pairs, w.decay);
    chunk.v = w.values.make(chunk, w.decay, state_in);
    visit(c, chunk, state_in);
    advance_state<T>(w.dims, chunk, w.decay, has_state, w.buffers, w.state);
    has_state = true;
  }
}

/// The segments `which` names. result.out undefined: states only.
template <class T, class Values>
void scan_forward(Context& ctx, const LinearStateCall& call, SegmentSet which,
                  const LinearStateForward& result) {
  const ScanOperands<T> x(call);
  const T scale = T(call.scale);
  const bool outputs = result.out.defined();
  const HeadRows<T> out(result.out, x.HV, x.dims.V);
  const HeadStates<T> saved(chunk_states(result.saved), x.HV, x.dims), last(result.final_state, x.HV, x.dims);
  using Workspace = ScanWorkspace<T, Values>;
  for_each_unit(ctx, call.chunks, which, x.HV, Workspace::bytes(x.dims), [&](const ScanUnit& unit) {
    Workspace w(x.dims, unit.scratch);
    const T* initial = x.initial_state(unit);
    if (initial) std::copy_n(initial, x.state_elems(), w.state);
    advance_segment(x, unit, outputs ? DecayPairs::kAll : Values::kStatePairs, initial, w,
                    [&](const ChunkList::Chunk& c, const ChunkOperands<T>& chunk, const T* state_in) {
                      if (saved.defined() && c.state >= 0)
                        std::copy_n(state_in, x.state_elems(), saved.at(c.state, unit.head));
                      if (outputs)
                        chunk_output<T>(x.dims, chunk, w.decay, scale, state_in, w.buffers,
                                        out.at(c.begin, unit.head));
                    });
    if (unit.segment.ends_row) std::copy_n(w.state, x.state_elems(), last.at(unit.segment.row, unit.head));
  });
}

/// A gradient of q or k as value heads that share a key head write it.
inline Tensor empty_per_value_head(Context& ctx, const LinearStateCall& call) {
  return Tensor::empty(ctx, {call.q.dim(0), call.q.dim(1), call.v.dim(2), call.q.dim(3)}, call.q.dtype());
}

enum class Write { kAssign, kAdd };

/// Sums [B, T, HV, width] over the value heads of each key head, in order, for the tokens of some segments.
template <class T>
void sum_value_heads(const Context& ctx, const LinearStateCall& call, SegmentSet which, const Tensor& heads,
                     Write write, const Tensor& out) {
  const int64_t H = out.dim(2), group = heads.dim(2) / H, width = out.dim(3);
  for (const ChunkList::SegmentChunks& segment : call.chunks.select(which)) {
    const ChunkList::Chunk &first = call.chunks.chunks()[segment.first],
                           &last = call.chunks.chunks()[segment.last - 1];
    const int64_t rows = (last.begin + last.length - first.begin) * H;
    const T* in = heads.data<T>() + first.begin * H * group * width;
    T* sums = out.data<T>() + first.begin * H * width;
    parallel_blocks(ctx, rows, 64, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* from = in + r * group * width;
        T* sum = sums + r * width;
        if (write == Write::kAssign) std::fill_n(sum, width, T(0));
        for (int64_t j = 0; j < group; ++j) {
          for (int64_t c = 0; c < width; ++c) sum[c] += from[j * width + c];
        }
      }
    });
  }
}

/// dg = reverse cumulative sum of dG. Without a state before the chunk its first token decays nothing: then
/// that element is zero to the last bit, not a sum of roundings.
template <class T>
void suffix_sums(int64_t n, const double* dlog_sum, bool has_state, Write write, Strided<T> dlog_decay) {
  double sum = 0;
  for (int64_t i = n - 1; i >= 0; --i) {
    sum += dlog_sum[i];
    const T dg = i == 0 && !has_state ? T(0) : T(sum);
    *dlog_decay.row(i) = write == Write::kAdd ? *dlog_decay.row(i) + dg : dg;
  }
}

/// Whether backward follows the gradient of the state over a segment, or leaves all it adds to others.
enum class StateGradient { kFollowed, kLeftOut };

/// The segments `which` names.
template <class T, class Values>
void scan_backward(Context& ctx, const LinearStateCall& call, SegmentSet which,
                   const LinearStateCotangents& from, const LinearStateGradients& d,
                   StateGradient state_gradient = StateGradient::kFollowed) {
  const ScanOperands<T> x(call);
  const T scale = T(call.scale);
  const int64_t K = x.dims.K, elems = x.state_elems();
  // Value heads that share a key head write apart, and are added afterwards.
  const bool shared = x.HV > x.H;
  const Tensor dq_heads = shared ? empty_per_value_head(ctx, call) : d.q;
  const Tensor dk_heads = shared ? empty_per_value_head(ctx, call) : d.k;
  const HeadRows<T> dq(dq_heads, x.HV, K), dk(dk_heads, x.HV, K), dv(d.v, x.HV, x.dims.V),
      dbeta(d.beta, x.HV, 1), dlog_decay(d.log_decay, x.HV, 1), dout(from.dout, x.HV, x.dims.V);
  const HeadStates<T> saved(chunk_states(from.saved), x.HV, x.dims), dfinal(from.dfinal_state, x.HV, x.dims),
      dinitial(d.initial_state, x.HV, x.dims);
  using Workspace = ScanWorkspace<T, Values>;
  for_each_unit(ctx, call.chunks, which, x.HV, Workspace::bytes(x.dims), [&](const ScanUnit& unit) {
    const auto& [segment, head, scratch] = unit;
    Workspace w(x.dims, scratch);
    const T* initial = x.initial_state(unit);
    bool has_dstate = segment.ends_row && dfinal.defined();
    if (has_dstate) std::copy_n(dfinal.at(segment.row, head), elems, w.state);
    for (int64_t i = segment.last - 1; i >= segment.first; --i) {
      const ChunkList::Chunk& c = call.chunks.chunks()[i];
      const T* state_in = c.state < 0 ? initial : saved.at(c.state, head);
      const ChunkOperands<T> chunk = x.chunk(c, head);
      ChunkOperands<T> with_values = chunk;
      x.set_decay(c, head, DecayPairs::kAll, w.decay);
      with_values.v = w.values.make(chunk, w.decay, state_in);
      const Strided<T> dv_rows = dv.at(c.begin, head), dlog_rows = dlog_decay.at(c.begin, head);
      const Strided<const T> dout_chunk = dout.at(c.begin, head);
      const ChunkGradients<T> grads{dq.at(c.begin, head), dk.at(c.begin, head), w.values.gradients(dv_rows),
                                    dlog_rows.data ? w.dlog_sum : nullptr};
      chunk_backward<T>(x.dims, with_values, w.decay, scale, state_in, has_dstate ? w.state : nullptr,
                        dout_chunk, w.buffers, grads);
      w.values.backward(chunk, w.decay, state_in, grads, dv_rows, dbeta.at(c.begin, head));
      if (dlog_rows.data) suffix_sums<T>(c.length, w.dlog_sum, state_in, Write::kAssign, dlog_rows);
      if (state_gradient == StateGradient::kLeftOut) continue;
      if (i == segment.first && !(initial && dinitial.defined())) break;
      retreat_state<T>(x.dims, chunk, w.decay, scale, dout_chunk, has_dstate, w.buffers, w.state);
      w.values.retreat(chunk, w.decay, w.state);
      has_dstate = true;
    }
    if (initial && dinitial.defined()) std::copy_n(w.state, elems, dinitial.at(segment.row, head));
  });
  if (shared) {
    sum_value_heads<T>(ctx, call, which, dq_heads, Write::kAssign, d.q);
    sum_value_heads<T>(ctx, call, which, dk_heads, Write::kAssign, d.k);
  }
}

/// On a dry Context what a scan takes, `num_gradients` of them per value head, and gives back.
template <template <class> class Values>
void dry_scan(Context& ctx, const LinearStateCall& call, const StateDims& dims, int num_gradients) {
  std::vector<Tensor> gradients;
  for (int i = 0; i < num_gradients; ++i) gradients.push_back(empty_per_value_head(ctx, call));
  dispatch_float(call.q.dtype(), [&](auto zero) {
    using T = decltype(zero);
    scan_pool(ctx, ScanWorkspace<T, Values<T>>::bytes(dims));
  });
}

}  // namespace spanwise::cpu
