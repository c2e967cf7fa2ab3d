#include "parallel/state_exchange.h"

#include "core/ops/block_copy.h"
#include "core/ops/operand_checks.h"

namespace spanwise {

SpanShape SpanShape::split(int64_t ways) const {
  SpanShape share = *this;
  share.heads = heads / ways;
  return share;
}

SpanShape shape_of(const SpanSummary& summary, const SequencePlan& plan) {
  const Tensor& b = summary.state;
  SPANWISE_CHECK(b.num_dims() == 4 && b.dim(0) == plan.num_local_rows() && b.contiguous(),
                 "a summary's state must be a contiguous [{}, HV, K, V], got {}", plan.num_local_rows(),
                 b.shape().str());
  const auto& [kind, values] = summary.transition;
  const SpanShape shape{b.dim(0), b.dim(1), b.dim(2), b.dim(3), kind, b.dtype()};
  if (kind != TransitionKind::kIdentity)
    check_operand("span exchange", "transition", values,
                  transition_shape(kind, {shape.rows, shape.heads}, shape.key_dim), shape.dtype);
  return shape;
}

void pack_summary(const Context& ctx, const SpanSummary& summary, const SpanShape& shape, int64_t first_head,
                  const Tensor& buffer, int64_t begin) {
  const auto pack = [&](const Tensor& source, int64_t row_elems, int64_t at) {
    const int64_t source_row = source.numel() / shape.rows, head_elems = row_elems / shape.heads;
    copy_blocks(ctx, source, buffer,
                {{.rows = shape.rows,
                  .width = row_elems,
                  .from = first_head * head_elems,
                  .from_stride = source_row,
                  .to = at,
                  .to_stride = row_elems}});
  };
  pack(summary.state, shape.state_elems(), begin);
  if (shape.transition == TransitionKind::kIdentity) return;
  pack(summary.transition.values, shape.transition_elems(), begin + shape.rows * shape.state_elems());
}

SpanTransition Transitions::operator[](int64_t row) const {
  if (shape.transition == TransitionKind::kIdentity) return {};
  return {shape.transition,
          values.slice_flat(row * shape.transition_elems(),
                            transition_shape(shape.transition, {shape.heads}, shape.key_dim))};
}

Transitions extract_transitions(Context& ctx, const SpanShape& shape, const Tensor& summaries,
                                int64_t count) {
  Transitions out{shape, {}};
  const int64_t width = shape.rows * shape.transition_elems();
  if (width == 0) return out;
  out.values = Tensor::empty(ctx, {count * width}, shape.dtype);
  copy_blocks(ctx, summaries, out.values,
              {{.rows = count,
                .width = width,
                .from = shape.rows * shape.state_elems(),
                .from_stride = shape.elems(),
                .to = 0,
                .to_stride = width}});
  return out;
}

Tensor gathered_state(const SpanShape& shape, const Tensor& summaries, int64_t gathered_row) {
  const int64_t rank = gathered_row / shape.rows, row = gathered_row % shape.rows;
  return summaries.slice_flat(rank * shape.elems() + row * shape.state_elems(), shape.state_shape());
}

int64_t gathered_row(const SequencePlan& plan, int64_t row, int part) {
  const SequencePartition& p = plan.partition();
  return p.owner(part) * plan.num_local_rows() + row * p.slots() + p.slot(part);
}

LocalPart local_part(const SequencePlan& plan, int64_t local_row) {
  const SequencePartition& p = plan.partition();
  return {local_row / p.slots(), p.part(plan.rank(), int(local_row % p.slots()))};
}

SpanChain part_chain(const SequencePlan& plan, int64_t row, const Transitions& transitions) {
  return {.continues = [&plan, row](int part) { return plan.continues(row, part); },
          .passes = [&plan, row](int part) { return plan.passes_through(row, part); },
          .state = nullptr,
          .transition = [&plan, row,
                         &transitions](int part) { return transitions[gathered_row(plan, row, part)]; }};
}

Tensor outgoing_state(Context& ctx, const SpanChain& chain, int span, const Tensor& incoming) {
  const Tensor b = chain.state(span);
  if (!incoming.defined() || !chain.passes(span)) return b;
  return apply_transition(ctx, chain.transition(span), incoming, b);
}

Tensor incoming_gradient(Context& ctx, const SpanChain& chain, int span, const Tensor& outgoing) {
  const Tensor d = chain.state(span);
  if (!outgoing.defined() || !chain.passes(span)) return d;
  return apply_transition_transposed(ctx, chain.transition(span), outgoing, d);
}

void fold_states(Context& ctx, const SpanChain& chain, int first, int last, const Tensor& entering,
                 const EmitState& emit) {
  Tensor state = entering;
  for (int i = first; i < last; ++i) {
    if (i > first) state = chain.continues(i) ? outgoing_state(ctx, chain, i - 1, state) : Tensor();
    emit(i, state);
  }
}

void fold_gradients(Context& ctx, const SpanChain& chain, int first, int last, const Tensor& exiting,
                    const EmitState& emit) {
  Tensor gradient = exiting;
  for (int i = last - 1; i >= first; --i) {
    if (i + 1 < last)
      gradient = chain.continues(i + 1) ? incoming_gradient(ctx, chain, i + 1, gradient) : Tensor();
    emit(i, gradient);
  }
}

void set_row(const Tensor& rows, int64_t row, const Tensor& state) {
  const Tensor target = rows.row_range(row, row + 1);
  if (state.defined()) {
    target.copy_from(state);
  } else {
    target.fill(0);
  }
}

Tensor PartExchange::empty_states(const SpanShape& shape) const {
  return Tensor::empty(ctx_, {shape.rows, shape.heads, shape.key_dim, shape.value_dim}, shape.dtype);
}

EmitState PartExchange::keep_mine(int64_t row, const Tensor& states) const {
  return [this, row, states](int part, const Tensor& state) {
    const SequencePartition& p = plan_.partition();
    if (p.owner(part) == plan_.rank()) set_row(states, row * p.slots() + p.slot(part), state);
  };
}

}  // namespace spanwise
