// LASP-1 (arXiv 2404.02882), the baseline: each part's owner waits for the state before it, applies its own
// transition and sends the state on. One message a part, whatever the family; nothing overlaps.

#include "parallel/state_exchange.h"

namespace spanwise {

namespace {

class ChainExchange final : public PartExchange {
 public:
  using PartExchange::PartExchange;

  std::unique_ptr<Forward> start_forward(const SpanSummary& summary) override {
    const SpanShape shape = shape_of(summary, plan_);
    return std::make_unique<StartedForward>(Ticket(), [this, shape, summary] {
      auto saved = std::make_shared<const Transitions>(own_transitions(shape, summary));
      const Tensor states = pass("state_forward", Direction::kForward, summary.state, *saved);
      return IncomingState{states, std::move(saved)};
    });
  }

  std::unique_ptr<Backward> start_backward(const Tensor& dstate_in,
                                           const std::shared_ptr<const void>& saved) override {
    return std::make_unique<StartedBackward>(
        Ticket(), [this, dstate_in, own = std::static_pointer_cast<const Transitions>(saved)] {
          return pass("state_backward", Direction::kBackward, dstate_in, *own);
        });
  }

 private:
  enum class Direction { kForward, kBackward };

  static Transitions own_transitions(const SpanShape& shape, const SpanSummary& summary) {
    const Tensor& m = summary.transition.values;
    return {shape, m.defined() ? m.reshape({m.numel()}) : m};
  }

  /// Goes through the parts in the direction's order; every rank takes part in every step's exchange. Gives
  /// what arrived before (after) each local row.
  Tensor pass(std::string_view name, Direction direction, const Tensor& spans, const Transitions& own) const {
    const SequencePartition& p = plan_.partition();
    const Tensor arrived = empty_states(own.shape);
    arrived.fill(0);
    std::vector<Ticket> sending;
    for (int step = 0; step + 1 < p.num_parts(); ++step) {
      const bool forward = direction == Direction::kForward;
      const int from = forward ? step : p.num_parts() - 1 - step, to = forward ? from + 1 : from - 1;
      const bool sends = p.owner(from) == plan_.rank(), receives = p.owner(to) == plan_.rank();
      Tensor message;
      if (sends || receives) message = empty_message(own.shape);
      if (sends) write_message(direction, spans, own, arrived, from, message);
      if (p.owner(from) != p.owner(to)) {
        std::vector<Message> out, in;
        if (sends) out.push_back({p.owner(to), message});
        if (receives) in.push_back({p.owner(from), message});
        Ticket ticket = comm_.exchange(name, std::move(out), std::move(in));
        if (receives) {
          ticket.wait();
        } else {
          sending.push_back(std::move(ticket));
        }
      }
      if (receives) {
        for (int64_t row = 0; row < plan_.batch(); ++row)
          set_row(arrived, local_row(row, to), message.row_range(row, row + 1));
      }
    }
    for (Ticket& ticket : sending) ticket.wait();
    return arrived;
  }

  /// One part's states of all rows, [B, HV, K, V].
  Tensor empty_message(const SpanShape& shape) const {
    SpanShape part = shape;
    part.rows = plan_.batch();
    return empty_states(part);
  }

  int64_t local_row(int64_t row, int part) const {
    return row * plan_.partition().slots() + plan_.partition().slot(part);
  }

  /// What part `from` passes on: its last state, or its incoming state's gradient; zero to another document.
  void write_message(Direction direction, const Tensor& spans, const Transitions& own, const Tensor& arrived,
                     int from, const Tensor& message) const {
    for (int64_t row = 0; row < plan_.batch(); ++row) {
      const int64_t at = local_row(row, from);
      const auto state_of = [&](const Tensor& t) {
        return t.slice_flat(at * own.shape.state_elems(), own.shape.state_shape());
      };
      const SpanChain chain{.continues = nullptr,
                            .passes = [&](int part) { return plan_.passes_through(row, part); },
                            .state = [&](int) { return state_of(spans); },
                            .transition = [&](int) { return own[at]; }};
      const bool forward = direction == Direction::kForward;
      const bool linked = plan_.continues(row, forward ? from + 1 : from);
      if (!linked) {
        set_row(message, row, {});
      } else {
        set_row(message, row,
                forward ? outgoing_state(ctx_, chain, from, state_of(arrived))
                        : incoming_gradient(ctx_, chain, from, state_of(arrived)));
      }
    }
  }
};

}  // namespace

std::unique_ptr<SpanExchange> make_chain_exchange(Context& ctx, Comm& comm, const SequencePlan& plan) {
  return std::make_unique<ChainExchange>(ctx, comm, plan);
}

}  // namespace spanwise
