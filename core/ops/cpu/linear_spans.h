#pragma once
// What the rows of a call need beside linear_scan.h when they are spans of longer sequences
// (core/ops/span.h).

#include "core/ops/cpu/linear_scan.h"
#include "core/ops/span.h"

namespace spanwise::cpu {

/// log_decays [B, HV] = Σ g over each row.
template <class T>
void sum_log_decays(const LinearStateCall& call, const Tensor& log_decays) {
  const ScanOperands<T> x(call);
  const int64_t B = call.q.dim(0), length = call.q.dim(1);
  T* sums = log_decays.data<T>();
  for (int64_t row = 0; row < B; ++row) {
    for (int64_t head = 0; head < x.HV; ++head) {
      const Strided<const T> g = x.log_decay.at(row * length, head);
      sums[row * x.HV + head] = T(g.data ? log_decay_sum<T>(length, g)
                                         : length * log_decay_sum<T>(1, {&x.head_log_decay[head], 1}));
    }
  }
}

/// B of every row and M of those one document fills, which carry a state through; M comes zeroed. Both are
/// columns of one state [B | M]: M obeys the recurrence with v = 0 from the identity.
template <class T, class Values>
void scan_summaries(Context& ctx, const LinearStateCall& call, const SpanSummary& summary) {
  const ScanOperands<T> x(call);
  const auto [K, V, C] = x.dims;
  const StateDims with_transition{K, V + K, C};
  const HeadStates<T> states(summary.state, x.HV, x.dims),
      transitions(summary.transition.values, x.HV, {K, K, C});
  using Workspace = ScanWorkspace<T, Values>;
  const auto nothing = [](const ChunkList::Chunk&, const ChunkOperands<T>&, const T*) {};
  for_each_unit(ctx, call.chunks, SegmentSet::kEndingRow, x.HV, Workspace::bytes(with_transition),
                [&](const ScanUnit& unit) {
                  const auto& [segment, head, scratch] = unit;
                  const bool passes = segment.continues;
                  Workspace w(passes ? with_transition : x.dims, scratch);
                  const int64_t width = w.dims.V;
                  if (passes) {
                    std::fill_n(w.state, x.dims.K * width, T(0));
                    for (int64_t i = 0; i < x.dims.K; ++i) w.state[i * width + x.dims.V + i] = 1;
                  }
                  advance_segment(x, unit, Values::kStatePairs, passes, w, nothing);
                  for (int64_t i = 0; i < x.dims.K; ++i) {
                    const T* row = w.state + i * width;
                    std::copy_n(row, x.dims.V, states.at(segment.row, head) + i * x.dims.V);
                    if (passes)
                      std::copy_n(row + x.dims.V, x.dims.K, transitions.at(segment.row, head) + i * x.dims.K);
                  }
                });
}

/// D: gradients of the incoming states of the rows that continue a document, had their last states none. The
/// other rows of dstate_in are not written.
template <class T, class Values>
void scan_state_gradients(Context& ctx, const LinearStateCall& call, const Tensor& dout,
                          const Tensor& dstate_in) {
  const ScanOperands<T> x(call);
  const T scale = T(call.scale);
  const HeadRows<T> dout_rows(dout, x.HV, x.dims.V);
  const HeadStates<T> dstates(dstate_in, x.HV, x.dims);
  using Workspace = ScanWorkspace<T, Values>;
  for_each_unit(
      ctx, call.chunks, SegmentSet::kContinuing, x.HV, Workspace::bytes(x.dims), [&](const ScanUnit& unit) {
        const auto& [segment, head, scratch] = unit;
        Workspace w(x.dims, scratch);
        bool has_dstate = false;
        for (int64_t i = segment.last - 1; i >= segment.first; --i) {
          const ChunkList::Chunk& c = call.chunks.chunks()[i];
          const ChunkOperands<T> chunk = x.chunk(c, head);
          const Strided<const T> dout_chunk = dout_rows.at(c.begin, head);
          x.set_decay(c, head, Values::kStatePairs, w.decay);
          w.values.begin_retreat(chunk, w.decay, scale, has_dstate ? w.state : nullptr, dout_chunk,
                                 w.buffers);
          retreat_state<T>(x.dims, chunk, w.decay, scale, dout_chunk, has_dstate, w.buffers, w.state);
          w.values.retreat(chunk, w.decay, w.state);
          has_dstate = true;
        }
        std::copy_n(w.state, x.state_elems(), dstates.at(segment.row, head));
      });
}

}  // namespace spanwise::cpu
