#include "core/ops/scalar_decay.h"

#include "core/ops/cpu/linear_family.h"
#include "core/ops/cpu/linear_step.h"

namespace spanwise::cpu {

namespace {

/// The state takes v as it is.
template <class T>
struct PlainValues {
  static constexpr DecayPairs kStatePairs = DecayPairs::kToEnd;
  PlainValues(const StateDims&, Scratch&) {}
  Strided<const T> make(const ChunkOperands<T>& x, const ChunkDecay<T>&, const T*) { return x.v; }
  Strided<T> gradients(Strided<T> dv) { return dv; }
  void backward(const ChunkOperands<T>&, const ChunkDecay<T>&, const T*, const ChunkGradients<T>&, Strided<T>,
                Strided<T>) {}
  void begin_retreat(const ChunkOperands<T>&, const ChunkDecay<T>&, T, const T*, Strided<const T>,
                     const ChunkBuffers<T>&) {}
  void retreat(const ChunkOperands<T>&, const ChunkDecay<T>&, T*) {}
};

// Rows as spans: the states are linear in the incoming one and the outputs in the states, so one scan from
// zero gives B and states that the incoming one, decayed, is added to afterwards.

/// Outputs from the states of a scan from zero, but for the state's part in segments that continue.
template <class T>
void local_outputs(Context& ctx, const LinearStateCall& call, const LinearStateForward& f) {
  const ScanOperands<T> x(call);
  const HeadRows<T> out(f.out, x.HV, x.dims.V);
  const HeadStates<T> states(chunk_states(f.saved), x.HV, x.dims);
  using Workspace = ScanWorkspace<T, PlainValues<T>>;
  for_each_unit(ctx, call.chunks, SegmentSet::kAll, x.HV, Workspace::bytes(x.dims),
                [&](const ScanUnit& unit) {
                  Workspace w(x.dims, unit.scratch);
                  for (int64_t i = unit.segment.first; i < unit.segment.last; ++i) {
                    const ChunkList::Chunk& c = call.chunks.chunks()[i];
                    const bool has_state = !unit.segment.continues && c.state >= 0;
                    x.set_decay(c, unit.head, DecayPairs::kAll, w.decay);
                    chunk_output<T>(x.dims, x.chunk(c, unit.head), w.decay, T(call.scale),
                                    has_state ? states.at(c.state, unit.head) : nullptr, w.buffers,
                                    out.at(c.begin, unit.head));
                  }
                });
}

template <class T>
void add_to(int64_t n, const T* from, T* sum) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) sum[i] += from[i];
}

/// Adds what is left of the incoming states to the chunk states and the last ones, and then the states' part
/// to the outputs.
template <class T>
void fold_states(Context& ctx, const LinearStateCall& call, const LinearStateForward& f) {
  const ScanOperands<T> x(call);
  const HeadRows<T> out(f.out, x.HV, x.dims.V);
  const HeadStates<T> states(chunk_states(f.saved), x.HV, x.dims), last(f.final_state, x.HV, x.dims);
  const int64_t elems = x.state_elems();
  using Workspace = ScanWorkspace<T, PlainValues<T>>;
  for_each_unit(ctx, call.chunks, SegmentSet::kContinuing, x.HV, Workspace::bytes(x.dims),
                [&](const ScanUnit& unit) {
                  Workspace w(x.dims, unit.scratch);
                  T* left = w.state;
                  std::copy_n(x.initial_state(unit), elems, left);
                  for (int64_t i = unit.segment.first; i < unit.segment.last; ++i) {
                    const ChunkList::Chunk& c = call.chunks.chunks()[i];
                    T* state = c.state < 0 ? left : states.at(c.state, unit.head);
                    if (c.state >= 0) add_to(elems, left, state);
                    x.set_decay(c, unit.head, DecayPairs::kToEnd, w.decay);
                    add_state_output<T>(x.dims, x.chunk(c, unit.head), w.decay, T(call.scale), state,
                                        w.buffers, out.at(c.begin, unit.head));
                    const T total = w.decay.total();
#pragma omp simd
                    for (int64_t e = 0; e < elems; ++e) left[e] *= total;
                  }
                  if (unit.segment.ends_row) add_to(elems, left, last.at(unit.segment.row, unit.head));
                });
}

/// Adds what the gradients of the rows' last states bring to those of k, v and the decays.
template <class T>
void fold_state_gradients(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
                          const LinearStateGradients& d) {
  const ScanOperands<T> x(call);
  const Tensor dk_heads = empty_per_value_head(ctx, call);
  const HeadRows<T> dk(dk_heads, x.HV, x.dims.K), dv(d.v, x.HV, x.dims.V), dlog_decay(d.log_decay, x.HV, 1),
      dout(from.dout, x.HV, x.dims.V);
  const HeadStates<T> states(chunk_states(from.saved), x.HV, x.dims), dlast(from.dfinal_state, x.HV, x.dims);
  using Workspace = ScanWorkspace<T, PlainValues<T>>;
  for_each_unit(ctx, call.chunks, SegmentSet::kEndingRow, x.HV, Workspace::bytes(x.dims),
                [&](const ScanUnit& unit) {
                  const auto& [segment, head, scratch] = unit;
                  Workspace w(x.dims, scratch);
                  std::copy_n(dlast.at(segment.row, head), x.state_elems(), w.state);
                  for (int64_t i = segment.last - 1; i >= segment.first; --i) {
                    const ChunkList::Chunk& c = call.chunks.chunks()[i];
                    const T* state_in = c.state < 0 ? x.initial_state(unit) : states.at(c.state, head);
                    const ChunkOperands<T> chunk = x.chunk(c, head);
                    const Strided<T> dlog_rows = dlog_decay.at(c.begin, head);
                    x.set_decay(c, head, DecayPairs::kToEnd, w.decay);
                    chunk_state_backward<T>(x.dims, chunk, w.decay, state_in, w.state, w.buffers,
                                            {.dq = {},
                                             .dk = dk.at(c.begin, head),
                                             .dv = dv.at(c.begin, head),
                                             .dlog_sum = dlog_rows.data ? w.dlog_sum : nullptr});
                    if (dlog_rows.data)
                      suffix_sums<T>(c.length, w.dlog_sum, state_in, Write::kAdd, dlog_rows);
                    if (i > segment.first)
                      retreat_state<T>(x.dims, chunk, w.decay, T(call.scale), dout.at(c.begin, head), true,
                                       w.buffers, w.state);
                  }
                });
  sum_value_heads<T>(ctx, call, SegmentSet::kEndingRow, dk_heads, Write::kAdd, d.k);
}

void summarize(Context& ctx, const LinearStateCall& call, const SpanSummary* summary,
               const LinearStateForward& out) {
  dispatch_float(call.q.dtype(), [&](auto zero) {
    using T = decltype(zero);
    scan_forward<T, PlainValues<T>>(ctx, call, SegmentSet::kAll,
                                    {.out = Tensor(), .final_state = out.final_state, .saved = out.saved});
    if (summary && summary->transition.kind == TransitionKind::kScalar)
      sum_log_decays<T>(call, summary->transition.values);
  });
  if (summary) summary->state.copy_from(out.final_state);
}

void local(Context& ctx, const LinearStateCall& call, const LinearStateForward& out) {
  dispatch_float(call.q.dtype(), [&](auto zero) { local_outputs<decltype(zero)>(ctx, call, out); });
}

void fold(Context& ctx, const LinearStateCall& call, const LinearStateForward& out) {
  dispatch_float(call.q.dtype(), [&](auto zero) { fold_states<decltype(zero)>(ctx, call, out); });
}

void local_bwd(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
               const LinearStateGradients& d) {
  LinearFamilyKernels<PlainValues>::backward(ctx, call, SegmentSet::kInsideRow, from, d);
  dispatch_float(call.q.dtype(), [&](auto zero) {
    using T = decltype(zero);
    scan_backward<T, PlainValues<T>>(ctx, call, SegmentSet::kEndingRow, from, d, StateGradient::kLeftOut);
  });
}

void fold_bwd(Context& ctx, const LinearStateCall& call, const LinearStateCotangents& from,
              const LinearStateGradients& d) {
  dispatch_float(call.q.dtype(),
                 [&](auto zero) { fold_state_gradients<decltype(zero)>(ctx, call, from, d); });
}

// With an exchange the part of dk that comes from the next spans is summed per value head however many there
// are.
void temporaries(Context& ctx, const LinearStateCall& call, const LinearStageInput& input) {
  const bool shared = call.v.dim(2) > call.q.dim(2);
  int gradients = 0;
  if (input.stage == LinearStage::kBackward || input.stage == LinearStage::kLocalBwd)
    gradients = shared ? 2 : 0;
  if (input.stage == LinearStage::kFoldBwd) gradients = 1;
  dry_scan<PlainValues>(ctx, call, state_dims(call), gradients);
}

}  // namespace

LinearStateKernels scalar_decay_kernels() {
  LinearStateKernels kernels = linear_family_kernels<PlainValues>();
  kernels.allocate_passed = allocate_chunk_states;
  kernels.temporaries = temporaries;
  kernels.summarize = summarize;
  kernels.local = local;
  kernels.fold = fold;
  kernels.local_bwd = local_bwd;
  kernels.fold_bwd = fold_bwd;
  kernels.step = linear_step<StateWrite::kValue>;
  return kernels;
}

}  // namespace spanwise::cpu
