#pragma once
// The scan over chunks, forward and backward, for a family of linear attention with one decay a head. A unit
// of work is one span of one value head; units do not depend on each other. What a family adds to the plain
// recurrence is a Values class:
//
//   Values(const StateDims&, Scratch&)
//   Strided<const T> make(chunk, decay, state_in): what the chunk writes into the state: v, or the delta
//       rule's N
//   Strided<T> gradients(dv): where chunk_backward puts the gradient of that
//   void backward(chunk, decay, state_in, chunk gradients, dv, dbeta): writes dv and dbeta from it, and adds
//       to the key and decay gradients
//   void retreat(chunk, decay, dstate): its part of the state's gradient

#include <algorithm>

#include "core/ops/cpu/chunks.h"
#include "core/ops/cpu/parallel_for.h"
#include "core/ops/linear_state.h"

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

/// fn(span, head, scratch) for every unit, each thread with `bytes` of its own scratch. Heads are the outer
/// order, so that every thread gets as many tokens when heads divide by threads.
template <class F>
void for_each_unit(Context& ctx, const ChunkList& chunks, int64_t heads, int64_t bytes, F&& fn) {
  const Tensor pool = Tensor::empty(ctx, {ctx.num_threads(), bytes}, DType::kU8);
  const int64_t num_spans = int64_t(chunks.spans().size()), units = heads * num_spans;
  // At least two indices: a lone unit must run inside a parallel region too, or gemm would use all threads
  // and results depend on their number.
  parallel_for(ctx, std::max<int64_t>(units, 2), [&](int64_t u) {
    if (u >= units) return;
    Scratch scratch(static_cast<std::byte*>(pool.raw()) + omp_get_thread_num() * bytes);
    fn(chunks.spans()[u % num_spans], u / num_spans, scratch);
  });
}

/// Row access to a call's operands.
template <class T>
struct ScanOperands {
  explicit ScanOperands(const LinearStateCall& c)
      : H(c.q.dim(2)),
        HV(c.v.dim(2)),
        dims{c.q.dim(3), c.v.dim(3), c.chunks.max_length()},
        q(c.q, H, dims.K),
        k(c.k, H, dims.K),
        v(c.v, HV, dims.V),
        log_decay(c.log_decay, HV, 1),
        beta(c.beta, HV, 1),
        head_log_decay(c.head_log_decay.defined() ? c.head_log_decay.to_vector<T>() : std::vector<T>(HV)),
        initial_state(c.initial_state.defined() ? c.initial_state.data<T>() : nullptr) {}

  ChunkOperands<T> chunk(const ChunkList::Chunk& c, int64_t head) const {
    const int64_t key_head = head * H / HV;
    return {c.length, q.at(c.begin, key_head), k.at(c.begin, key_head), v.at(c.begin, head),
            beta.at(c.begin, head)};
  }
  void set_decay(const ChunkList::Chunk& c, int64_t head, ChunkDecay<T>& decay) const {
    const Strided<const T> g = log_decay.at(c.begin, head);
    if (g.data) {
      decay.set_tokens(c.length, g);
    } else {
      decay.set_constant(c.length, head_log_decay[head]);
    }
  }
  int64_t state_elems() const { return dims.K * dims.V; }
  const T* state_before(const ChunkList::Span& span, int64_t head) const {
    if (!span.continues || !initial_state) return nullptr;
    return initial_state + (span.row * HV + head) * state_elems();
  }

  int64_t H, HV;
  StateDims dims;
  HeadRows<T> q, k, v, log_decay, beta;
  std::vector<T> head_log_decay;
  const T* initial_state;
};

template <class T, class Values>
struct ScanWorkspace {
  ScanWorkspace(const StateDims& dims, Scratch& scratch)
      : decay(dims, scratch),
        buffers(dims, scratch),
        values(dims, scratch),
        state(scratch.take<T>(dims.K * dims.V)),
        dlog_sum(scratch.take<double>(dims.C)) {}
  static int64_t bytes(const StateDims& dims) {
    Scratch counter(nullptr);
    ScanWorkspace workspace(dims, counter);
    return counter.bytes();
  }
  ChunkDecay<T> decay;
  ChunkBuffers<T> buffers;
  Values values;
  T* state;  // backward: the state's gradient
  double* dlog_sum;
};

template <class T, class Values>
void scan_forward(Context& ctx, const LinearStateCall& call, const LinearStateForward& result) {
  const ScanOperands<T> x(call);
  const T scale = T(call.scale);
  const HeadRows<T> out(result.out, x.HV, x.dims.V);
  T* saved = result.chunk_states.defined() ? result.chunk_states.data<T>() : nullptr;
  using Workspace = ScanWorkspace<T, Values>;
  for_each_unit(
      ctx, call.chunks, x.HV, Workspace::bytes(x.dims),
      [&](const ChunkList::Span& span, int64_t head, Scratch& scratch) {
        Workspace w(x.dims, scratch);
        const T* initial = x.state_before(span, head);
        if (initial) std::copy_n(initial, x.state_elems(), w.state);
        bool has_state = initial;
        for (int64_t i = span.first; i < span.last; ++i) {
          const ChunkList::Chunk& c = call.chunks.chunks()[i];
          if (saved && c.state >= 0)
            std::copy_n(w.state, x.state_elems(), saved + (c.state * x.HV + head) * x.state_elems());
          ChunkOperands<T> chunk = x.chunk(c, head);
          const T* state_in = has_state ? w.state : nullptr;
          x.set_decay(c, head, w.decay);
          chunk.v = w.values.make(chunk, w.decay, state_in);
          chunk_output<T>(x.dims, chunk, w.decay, scale, state_in, w.buffers, out.at(c.begin, head));
          advance_state<T>(x.dims, chunk, w.decay, has_state, w.buffers, w.state);
          has_state = true;
        }
        if (span.ends_row) {
          std::copy_n(w.state, x.state_elems(),
                      result.final_state.data<T>() + (span.row * x.HV + head) * x.state_elems());
        }
      });
}

/// Sums [tokens, HV, width] over the value heads of each key head, in order.
template <class T>
void sum_value_heads(const Context& ctx, int64_t H, int64_t HV, int64_t width, const Tensor& heads,
                     const Tensor& out) {
  const int64_t rows = out.numel() / width, group = HV / H;
  const T* in = heads.data<T>();
  T* sums = out.data<T>();
  parallel_blocks(ctx, rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* first = in + r * group * width;
      T* sum = sums + r * width;
      std::copy_n(first, width, sum);
      for (int64_t j = 1; j < group; ++j) {
        for (int64_t c = 0; c < width; ++c) sum[c] += first[j * width + c];
      }
    }
  });
}

/// dg = reverse cumulative sum of dG.
template <class T>
void suffix_sums(int64_t n, const double* dlog_sum, Strided<T> dlog_decay) {
  double sum = 0;
  for (int64_t i = n - 1; i >= 0; --i) *dlog_decay.row(i) = T(sum += dlog_sum[i]);
}

template <class T, class Values>
void scan_backward(Context& ctx, const LinearStateCall& call, const Tensor& chunk_states, const Tensor& dout,
                   const Tensor& dfinal_state, const LinearStateGradients& result) {
  const ScanOperands<T> x(call);
  const T scale = T(call.scale);
  const int64_t K = x.dims.K, elems = x.state_elems();
  // Value heads that share a key head write apart, and are added afterwards.
  const bool shared = x.HV > x.H;
  const Shape per_value_head{call.q.dim(0), call.q.dim(1), x.HV, K};
  const Tensor dq_heads = shared ? Tensor::empty(ctx, per_value_head, call.q.dtype()) : result.dq;
  const Tensor dk_heads = shared ? Tensor::empty(ctx, per_value_head, call.q.dtype()) : result.dk;
  const HeadRows<T> dq(dq_heads, x.HV, K), dk(dk_heads, x.HV, K), dv(result.dv, x.HV, x.dims.V),
      dbeta(result.dbeta, x.HV, 1), dlog_decay(result.dlog_decay, x.HV, 1), dout_rows(dout, x.HV, x.dims.V);
  const T* saved = chunk_states.data<T>();
  using Workspace = ScanWorkspace<T, Values>;
  for_each_unit(
      ctx, call.chunks, x.HV, Workspace::bytes(x.dims),
      [&](const ChunkList::Span& span, int64_t head, Scratch& scratch) {
        Workspace w(x.dims, scratch);
        const T* initial = x.state_before(span, head);
        const int64_t boundary = (span.row * x.HV + head) * elems;
        bool has_dstate = span.ends_row && dfinal_state.defined();
        if (has_dstate) std::copy_n(dfinal_state.data<T>() + boundary, elems, w.state);
        for (int64_t i = span.last - 1; i >= span.first; --i) {
          const ChunkList::Chunk& c = call.chunks.chunks()[i];
          const T* state_in = c.state < 0 ? initial : saved + (c.state * x.HV + head) * elems;
          const ChunkOperands<T> chunk = x.chunk(c, head);
          ChunkOperands<T> with_values = chunk;
          x.set_decay(c, head, w.decay);
          with_values.v = w.values.make(chunk, w.decay, state_in);
          const Strided<T> dv_rows = dv.at(c.begin, head), dlog_rows = dlog_decay.at(c.begin, head);
          const Strided<const T> dout_chunk = dout_rows.at(c.begin, head);
          const ChunkGradients<T> grads{dq.at(c.begin, head), dk.at(c.begin, head),
                                        w.values.gradients(dv_rows), dlog_rows.data ? w.dlog_sum : nullptr};
          chunk_backward<T>(x.dims, with_values, w.decay, scale, state_in, has_dstate ? w.state : nullptr,
                            dout_chunk, w.buffers, grads);
          w.values.backward(chunk, w.decay, state_in, grads, dv_rows, dbeta.at(c.begin, head));
          if (dlog_rows.data) {
            suffix_sums<T>(c.length, w.dlog_sum, dlog_rows);
            if (!state_in)
              *dlog_rows.row(0) = 0;  // decays nothing: zero to the last bit, not a sum of roundings
          }
          if (i == span.first && !(initial && result.dinitial_state.defined())) break;
          retreat_state<T>(x.dims, chunk, w.decay, scale, dout_chunk, has_dstate, w.buffers, w.state);
          w.values.retreat(chunk, w.decay, w.state);
          has_dstate = true;
        }
        if (initial && result.dinitial_state.defined())
          std::copy_n(w.state, elems, result.dinitial_state.data<T>() + boundary);
      });
  if (shared) {
    sum_value_heads<T>(ctx, x.H, x.HV, K, dq_heads, result.dq);
    sum_value_heads<T>(ctx, x.H, x.HV, K, dk_heads, result.dk);
  }
}

}  // namespace spanwise::cpu
