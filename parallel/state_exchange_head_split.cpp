// Head-split scan: an all-to-all gives each rank every part's summary of its share of the heads, it folds all
// prefixes for them, and a second all-to-all brings the states to the parts' owners.

#include "core/ops/block_copy.h"
#include "parallel/state_exchange.h"

namespace spanwise {

namespace {

class HeadSplitExchange final : public PartExchange {
 public:
  using PartExchange::PartExchange;

  std::unique_ptr<Forward> start_forward(const SpanSummary& summary) override {
    const SpanShape share = share_of(shape_of(summary, plan_));
    const Tensor received = Tensor::empty(ctx_, {comm_.size() * share.elems()}, share.dtype);
    return std::make_unique<StartedForward>(send("state_forward", summary, share, received),
                                            [this, share, received] { return fold(share, received); });
  }

  std::unique_ptr<Backward> start_backward(const Tensor& dstate_in,
                                           const std::shared_ptr<const void>& saved) override {
    const auto transitions = std::static_pointer_cast<const Transitions>(saved);
    SpanShape share = transitions->shape;
    share.transition = TransitionKind::kIdentity;
    const Tensor received = Tensor::empty(ctx_, {comm_.size() * share.elems()}, share.dtype);
    return std::make_unique<StartedBackward>(
        send("state_backward", {.state = dstate_in}, share, received),
        [this, share, transitions, received] { return fold_back(share, *transitions, received); });
  }

 private:
  SpanShape share_of(const SpanShape& shape) const {
    if (shape.heads % comm_.size() != 0) {
      fail_user(
          "parallel.exchange: HEAD_SPLIT needs the {} heads of a layer to be a multiple of {} sequence "
          "ranks; "
          "choose ALL_GATHER or another parallel.sequence",
          shape.heads, comm_.size());
    }
    return shape.split(comm_.size());
  }

  Ticket send(std::string_view name, const SpanSummary& summary, const SpanShape& share,
              const Tensor& received) {
    const Tensor packed = Tensor::empty(ctx_, {comm_.size() * share.elems()}, share.dtype);
    for (int rank = 0; rank < comm_.size(); ++rank)
      pack_summary(ctx_, summary, share, rank * share.heads, packed, rank * share.elems());
    return comm_.all_to_all(name, packed, received);
  }

  IncomingState fold(const SpanShape& share, const Tensor& received) const {
    auto transitions =
        std::make_shared<const Transitions>(extract_transitions(ctx_, share, received, comm_.size()));
    const Tensor states = every_row(share);
    for (int64_t row = 0; row < plan_.batch(); ++row) {
      const SpanChain chain = shared_chain(row, share, *transitions, received);
      fold_states(ctx_, chain, 0, plan_.partition().num_parts(), {}, keep_all(row, states));
    }
    return {send_back(share, states, "state_forward_return"), std::move(transitions)};
  }

  Tensor fold_back(const SpanShape& share, const Transitions& transitions, const Tensor& received) const {
    const Tensor gradients = every_row(share);
    for (int64_t row = 0; row < plan_.batch(); ++row) {
      const SpanChain chain = shared_chain(row, share, transitions, received);
      fold_gradients(ctx_, chain, 0, plan_.partition().num_parts(), {}, keep_all(row, gradients));
    }
    return send_back(share, gradients, "state_backward_return");
  }

  SpanChain shared_chain(int64_t row, const SpanShape& share, const Transitions& transitions,
                         const Tensor& received) const {
    SpanChain chain = part_chain(plan_, row, transitions);
    chain.state = [this, row, share, received](int part) {
      return gathered_state(share, received, gathered_row(plan_, row, part));
    };
    return chain;
  }

  /// States of all ranks' rows, this rank's heads.
  Tensor every_row(const SpanShape& share) const {
    return Tensor::empty(ctx_, {comm_.size() * share.rows, share.heads, share.key_dim, share.value_dim},
                         share.dtype);
  }
  EmitState keep_all(int64_t row, const Tensor& states) const {
    return [this, row, states](int part, const Tensor& state) {
      set_row(states, gathered_row(plan_, row, part), state);
    };
  }

  /// [W · R, HV/W, K, V] of this rank's heads → [R, HV, K, V] of this rank's rows.
  Tensor send_back(const SpanShape& share, const Tensor& states, std::string_view name) const {
    const Tensor received = Tensor::empty(ctx_, states.shape(), states.dtype());
    comm_.all_to_all(name, states, received).wait();
    SpanShape whole = share;
    whole.heads *= comm_.size();
    const Tensor mine = empty_states(whole);
    const int64_t width = share.state_elems();
    for (int rank = 0; rank < comm_.size(); ++rank) {
      copy_blocks(ctx_, received, mine,
                  {{.rows = share.rows,
                    .width = width,
                    .from = rank * share.rows * width,
                    .from_stride = width,
                    .to = rank * width,
                    .to_stride = whole.state_elems()}});
    }
    return mine;
  }
};

}  // namespace

bool prefers_head_split(const SpanShape& shape, int num_ranks) {
  constexpr int64_t kAllGatherBytes = int64_t(4) << 20;
  return shape.elems() * int64_t(size_of(shape.dtype)) > kAllGatherBytes && shape.heads % num_ranks == 0;
}

namespace {

class AutoExchange final : public PartExchange {
 public:
  AutoExchange(Context& ctx, Comm& comm, const SequencePlan& plan)
      : PartExchange(ctx, comm, plan),
        all_gather_(make_all_gather_exchange(ctx, comm, plan)),
        head_split_(ctx, comm, plan) {}

  std::unique_ptr<Forward> start_forward(const SpanSummary& summary) override {
    const bool split = prefers_head_split(shape_of(summary, plan_), comm_.size());
    SpanExchange& chosen = split ? static_cast<SpanExchange&>(head_split_) : *all_gather_;
    return std::make_unique<StartedForward>(
        Ticket(), [&chosen, started = std::shared_ptr<Forward>(chosen.start_forward(summary))] {
          IncomingState incoming = started->wait();
          incoming.saved = std::make_shared<const Chosen>(Chosen{chosen, std::move(incoming.saved)});
          return incoming;
        });
  }

  std::unique_ptr<Backward> start_backward(const Tensor& dstate_in,
                                           const std::shared_ptr<const void>& saved) override {
    const auto chosen = std::static_pointer_cast<const Chosen>(saved);
    return chosen->exchange.start_backward(dstate_in, chosen->saved);
  }

 private:
  /// Backward goes the way forward went.
  struct Chosen {
    SpanExchange& exchange;
    std::shared_ptr<const void> saved;
  };
  std::unique_ptr<SpanExchange> all_gather_;
  HeadSplitExchange head_split_;
};

}  // namespace

std::unique_ptr<SpanExchange> make_head_split_exchange(Context& ctx, Comm& comm, const SequencePlan& plan) {
  return std::make_unique<HeadSplitExchange>(ctx, comm, plan);
}

std::unique_ptr<SpanExchange> make_auto_exchange(Context& ctx, Comm& comm, const SequencePlan& plan) {
  return std::make_unique<AutoExchange>(ctx, comm, plan);
}

}  // namespace spanwise
