// Two levels: ranks of one node exchange their summaries, compose them, and exchange one composed summary a
// node with the ranks of equal place in the other nodes. A node's parts in one slot follow each other
// (zigzag: two runs a node, mirrored as the parts are), so runs are to nodes what parts are to ranks.

#include "core/ops/block_copy.h"
#include "parallel/state_exchange.h"

namespace spanwise {

namespace {

class TwoLevelExchange final : public PartExchange {
 public:
  TwoLevelExchange(Context& ctx, Comm& comm, const SequencePlan& plan, int ranks_per_node)
      : PartExchange(ctx, comm, plan),
        node_size_(ranks_per_node),
        num_nodes_(comm.size() / ranks_per_node),
        node_(comm.rank() / ranks_per_node) {
    if (ranks_per_node < 1 || comm.size() % ranks_per_node != 0) {
      fail_user("parallel.exchange: TWO_LEVEL needs {} sequence ranks to be a multiple of {} ranks a node",
                comm.size(), ranks_per_node);
    }
  }

  std::unique_ptr<Forward> start_forward(const SpanSummary& summary) override {
    const SpanShape shape = shape_of(summary, plan_);
    const Tensor inside = Tensor::empty(ctx_, {node_size_ * shape.elems()}, shape.dtype);
    Ticket ticket = gather_inside("state_forward", summary, shape, inside);
    return std::make_unique<StartedForward>(std::move(ticket),
                                            [this, shape, inside] { return fold(shape, inside); });
  }

  std::unique_ptr<Backward> start_backward(const Tensor& dstate_in,
                                           const std::shared_ptr<const void>& saved) override {
    const auto kept = std::static_pointer_cast<const Kept>(saved);
    SpanShape shape = kept->inside.shape;
    shape.transition = TransitionKind::kIdentity;
    const Tensor inside = Tensor::empty(ctx_, {node_size_ * shape.elems()}, shape.dtype);
    Ticket ticket = gather_inside("state_backward", {.state = dstate_in}, shape, inside);
    return std::make_unique<StartedBackward>(
        std::move(ticket), [this, shape, kept, inside] { return fold_back(shape, *kept, inside); });
  }

 private:
  /// Forward's transitions: of the node's ranks, and of the nodes.
  struct Kept {
    Transitions inside, across;
  };

  // Runs: the parts of a node in one slot.
  int num_runs() const { return num_nodes_ * plan_.partition().slots(); }
  int run_node(int run) const { return run < num_nodes_ ? run : num_runs() - 1 - run; }
  int run_slot(int run) const { return run < num_nodes_ ? 0 : 1; }
  int first_part(int run) const { return run * node_size_; }
  bool run_passes(int64_t row, int run) const {
    for (int part = first_part(run); part < first_part(run + 1); ++part) {
      if (!plan_.passes_through(row, part)) return false;
    }
    return true;
  }

  /// Row of a part of this node among the node's rows, and of a run among the nodes' rows.
  int64_t inside_row(int64_t row, int part) const {
    return gathered_row(plan_, row, part) - int64_t(node_) * node_size_ * plan_.num_local_rows();
  }
  int64_t across_row(int64_t row, int run) const {
    return run_node(run) * plan_.num_local_rows() + row * plan_.partition().slots() + run_slot(run);
  }

  Ticket gather_inside(std::string_view name, const SpanSummary& summary, const SpanShape& shape,
                       const Tensor& inside) {
    const int place = comm_.rank() % node_size_;
    pack_summary(ctx_, summary, shape, 0, inside, place * shape.elems());
    return gather(name, shape, inside, place, [this](int i) { return node_ * node_size_ + i; });
  }

  /// All-gather among some ranks: the one at `place` has filled its slice of `all`.
  Ticket gather(std::string_view name, const SpanShape& shape, const Tensor& all, int place,
                const std::function<int(int)>& rank_at) const {
    const int count = int(all.numel() / shape.elems());
    const auto slice = [&](int i) { return all.slice_flat(i * shape.elems(), {shape.elems()}); };
    std::vector<Message> sends, receives;
    for (int i = 0; i < count; ++i) {
      if (i == place) continue;
      sends.push_back({rank_at(i), slice(place)});
      receives.push_back({rank_at(i), slice(i)});
    }
    return comm_.exchange(name, std::move(sends), std::move(receives));
  }

  void gather_across(std::string_view name, const SpanShape& shape, const Tensor& across) const {
    const int place = comm_.rank() % node_size_;
    gather(name, shape, across, node_, [&](int i) { return i * node_size_ + place; }).wait();
  }

  SpanChain inside_chain(int64_t row, const SpanShape& shape, const Transitions& transitions,
                         const Tensor& inside) const {
    SpanChain chain = part_chain(plan_, row, transitions);
    chain.state = [this, row, shape, inside](int part) {
      return gathered_state(shape, inside, inside_row(row, part));
    };
    chain.transition = [this, row, &transitions](int part) { return transitions[inside_row(row, part)]; };
    return chain;
  }

  SpanChain across_chain(int64_t row, const SpanShape& shape, const Transitions& transitions,
                         const Tensor& across) const {
    return {.continues = [this, row](int run) { return plan_.continues(row, first_part(run)); },
            .passes = [this, row](int run) { return run_passes(row, run); },
            .state = [this, row, shape,
                      across](int run) { return gathered_state(shape, across, across_row(row, run)); },
            .transition = [this, row, &transitions](int run) { return transitions[across_row(row, run)]; }};
  }

  IncomingState fold(const SpanShape& shape, const Tensor& inside) const {
    auto kept = std::make_shared<Kept>();
    kept->inside = extract_transitions(ctx_, shape, inside, node_size_);
    const Tensor across = Tensor::empty(ctx_, {num_nodes_ * shape.elems()}, shape.dtype);
    for_each_own_run([&](int64_t row, int run) {
      const SpanChain chain = inside_chain(row, shape, kept->inside, inside);
      const int last = first_part(run + 1) - 1;
      fold_states(ctx_, chain, first_part(run), last + 1, {}, [&](int part, const Tensor& state) {
        if (part == last) put_state(shape, across, row, run, outgoing_state(ctx_, chain, part, state));
      });
      put_transition(shape, across, row, run, chain);
    });
    gather_across("state_forward_nodes", shape, across);
    kept->across = extract_transitions(ctx_, shape, across, num_nodes_);

    const Tensor states = empty_states(shape);
    for (int64_t row = 0; row < plan_.batch(); ++row) {
      const SpanChain runs = across_chain(row, shape, kept->across, across);
      const SpanChain parts = inside_chain(row, shape, kept->inside, inside);
      fold_states(ctx_, runs, 0, num_runs(), {}, [&](int run, const Tensor& state) {
        if (run_node(run) != node_) return;
        fold_states(ctx_, parts, first_part(run), first_part(run + 1), state, keep_mine(row, states));
      });
    }
    return {states, std::move(kept)};
  }

  Tensor fold_back(const SpanShape& shape, const Kept& kept, const Tensor& inside) const {
    const Tensor across = Tensor::empty(ctx_, {num_nodes_ * shape.elems()}, shape.dtype);
    for_each_own_run([&](int64_t row, int run) {
      const SpanChain chain = inside_chain(row, shape, kept.inside, inside);
      const int first = first_part(run);
      fold_gradients(ctx_, chain, first, first_part(run + 1), {}, [&](int part, const Tensor& gradient) {
        if (part == first) put_state(shape, across, row, run, incoming_gradient(ctx_, chain, part, gradient));
      });
    });
    gather_across("state_backward_nodes", shape, across);

    const Tensor gradients = empty_states(shape);
    for (int64_t row = 0; row < plan_.batch(); ++row) {
      const SpanChain runs = across_chain(row, shape, kept.across, across);
      const SpanChain parts = inside_chain(row, shape, kept.inside, inside);
      fold_gradients(ctx_, runs, 0, num_runs(), {}, [&](int run, const Tensor& gradient) {
        if (run_node(run) != node_) return;
        fold_gradients(ctx_, parts, first_part(run), first_part(run + 1), gradient,
                       keep_mine(row, gradients));
      });
    }
    return gradients;
  }

  void for_each_own_run(const std::function<void(int64_t row, int run)>& visit) const {
    for (int64_t row = 0; row < plan_.batch(); ++row) {
      for (int run = 0; run < num_runs(); ++run) {
        if (run_node(run) == node_) visit(row, run);
      }
    }
  }

  void put_state(const SpanShape& shape, const Tensor& across, int64_t row, int run,
                 const Tensor& state) const {
    gathered_state(shape, across, across_row(row, run)).copy_from(state);
  }

  /// The composed transition; zeros where the run passes nothing on and nobody reads it.
  void put_transition(const SpanShape& shape, const Tensor& across, int64_t row, int run,
                      const SpanChain& parts) const {
    if (shape.transition == TransitionKind::kIdentity) return;
    const int64_t at = across_row(row, run) % shape.rows;
    const Tensor target = across.slice_flat(
        node_ * shape.elems() + shape.rows * shape.state_elems() + at * shape.transition_elems(),
        {shape.transition_elems()});
    if (!run_passes(row, run)) {
      target.fill(0);
      return;
    }
    SpanTransition m = parts.transition(first_part(run));
    for (int part = first_part(run) + 1; part < first_part(run + 1); ++part)
      m = compose_transitions(ctx_, parts.transition(part), m);
    target.copy_from(m.values);
  }

  int node_size_, num_nodes_, node_;
};

}  // namespace

std::unique_ptr<SpanExchange> make_two_level_exchange(Context& ctx, Comm& comm, const SequencePlan& plan,
                                                      int ranks_per_node) {
  return std::make_unique<TwoLevelExchange>(ctx, comm, plan, ranks_per_node);
}

}  // namespace spanwise
