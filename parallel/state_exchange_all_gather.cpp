// LASP-2 (arXiv 2502.07563): one all-gather of every rank's summaries, then each rank folds its own prefix.
// Backward gathers D alone: forward's transitions are kept.

#include "parallel/state_exchange.h"

namespace spanwise {

namespace {

class AllGatherExchange final : public PartExchange {
 public:
  using PartExchange::PartExchange;

  std::unique_ptr<Forward> start_forward(const SpanSummary& summary) override {
    const SpanShape shape = shape_of(summary, plan_);
    Tensor mine = summary.state;
    if (shape.transition != TransitionKind::kIdentity) {
      mine = Tensor::empty(ctx_, {shape.elems()}, shape.dtype);
      pack_summary(ctx_, summary, shape, 0, mine, 0);
    }
    const Tensor all = Tensor::empty(ctx_, {comm_.size() * shape.elems()}, shape.dtype);
    return std::make_unique<StartedForward>(comm_.all_gather("state_forward", mine, all),
                                            [this, shape, all] { return fold(shape, all); });
  }

  std::unique_ptr<Backward> start_backward(const Tensor& dstate_in,
                                           const std::shared_ptr<const void>& saved) override {
    const auto transitions = std::static_pointer_cast<const Transitions>(saved);
    const Tensor all = Tensor::empty(ctx_, {comm_.size() * dstate_in.numel()}, dstate_in.dtype());
    return std::make_unique<StartedBackward>(
        comm_.all_gather("state_backward", dstate_in, all),
        [this, transitions, all] { return fold_back(*transitions, all); });
  }

 private:
  IncomingState fold(const SpanShape& shape, const Tensor& all) const {
    auto transitions =
        std::make_shared<const Transitions>(extract_transitions(ctx_, shape, all, comm_.size()));
    const Tensor states = empty_states(shape);
    const SequencePartition& p = plan_.partition();
    for (int64_t row = 0; row < plan_.batch(); ++row) {
      SpanChain chain = part_chain(plan_, row, *transitions);
      chain.state = [&, row](int part) { return gathered_state(shape, all, gathered_row(plan_, row, part)); };
      const int last = p.part(plan_.rank(), p.slots() - 1);
      fold_states(ctx_, chain, 0, last + 1, {}, keep_mine(row, states));
    }
    return {states, std::move(transitions)};
  }

  Tensor fold_back(const Transitions& transitions, const Tensor& all) const {
    const SpanShape& shape = transitions.shape;
    const Tensor gradients = empty_states(shape);
    const SequencePartition& p = plan_.partition();
    for (int64_t row = 0; row < plan_.batch(); ++row) {
      SpanChain chain = part_chain(plan_, row, transitions);
      chain.state = [&, row](int part) {
        return all.slice_flat(gathered_row(plan_, row, part) * shape.state_elems(), shape.state_shape());
      };
      fold_gradients(ctx_, chain, p.part(plan_.rank(), 0), p.num_parts(), {}, keep_mine(row, gradients));
    }
    return gradients;
  }
};

}  // namespace

std::unique_ptr<SpanExchange> make_all_gather_exchange(Context& ctx, Comm& comm, const SequencePlan& plan) {
  return std::make_unique<AllGatherExchange>(ctx, comm, plan);
}

}  // namespace spanwise
