#pragma once
// Exchanging states between the parts of a sequence (core/ops/span.h): what the algorithms share. Bytes a
// rank receives, for s bytes of states (R·HV·K·V) and m of transitions (R·HV for a scalar, R·HV·K for a
// diagonal, R·HV·K² for a dense one) a rank, W ranks, n ranks a node:
//
//                forward                            backward                     names
//   all-gather   (W − 1)(s + m)                     (W − 1) s                    state_*
//   chain        s · (parts received) / slots       the same                     state_*
//   head-split   (W − 1)/W (s + m) + (W − 1)/W s    2 (W − 1)/W s                state_*, state_*_return
//   two-level    (n − 1)(s + m) + (W/n − 1)(s + m)  (n − 1) s + (W/n − 1) s      state_*, state_*_nodes
//
// with * forward or backward, and as many parts received as a rank's parts that follow one of another rank.
// None depends on the sequence's length. Folds go through the parts one by one, left to right for states and
// right to left for their gradients, so that results do not depend on the algorithm but for the association
// of two-level's sums.

#include <functional>
#include <memory>

#include "core/ops/span.h"
#include "core/ops/span_fold.h"
#include "parallel/comm.h"
#include "parallel/sequence_parallel.h"
#include "parallel/sequence_partition.h"

namespace spanwise {

/// Sizes of one rank's summary. A buffer of it is [states of all rows | transitions of all rows].
struct SpanShape {
  int64_t rows, heads, key_dim, value_dim;
  TransitionKind transition;
  DType dtype;

  int64_t state_elems() const { return heads * key_dim * value_dim; }  ///< a row
  int64_t transition_elems() const { return heads * spanwise::transition_elems(transition, key_dim); }
  int64_t elems() const { return rows * (state_elems() + transition_elems()); }
  Shape state_shape() const { return {heads, key_dim, value_dim}; }
  /// With a share of the heads.
  SpanShape split(int64_t ways) const;
};
/// Checks the summary against the plan's rows.
SpanShape shape_of(const SpanSummary& summary, const SequencePlan& plan);

/// Heads [first_head, first_head + shape.heads) of a summary (or of states alone) into elements [begin, …) of
/// `buffer`, laid out as SpanShape says.
void pack_summary(const Context& ctx, const SpanSummary& summary, const SpanShape& shape, int64_t first_head,
                  const Tensor& buffer, int64_t begin);

/// Transitions of any number of rows.
struct Transitions {
  SpanShape shape;
  Tensor values;  ///< [n · transition_elems]; undefined for the identity
  SpanTransition operator[](int64_t row) const;
};
/// The transitions out of `count` summaries one behind the other.
Transitions extract_transitions(Context& ctx, const SpanShape& shape, const Tensor& summaries, int64_t count);

/// B [HV, K, V] of a row, counted through all the summaries that lie one behind the other.
Tensor gathered_state(const SpanShape& shape, const Tensor& summaries, int64_t gathered_row);

/// Where a part's row lies among the rows of all ranks: rank · R + row.
int64_t gathered_row(const SequencePlan& plan, int64_t row, int part);
/// The row of the whole batch, and the part, of a local row.
struct LocalPart {
  int64_t row;
  int part;
};
LocalPart local_part(const SequencePlan& plan, int64_t local_row);

/// Consecutive spans of one row, by their index. An undefined state is zero.
struct SpanChain {
  std::function<bool(int)> continues, passes;
  std::function<Tensor(int)> state;  ///< B forward, D backward
  std::function<SpanTransition(int)> transition;
};
/// Parts of a row; `state` is left to the caller.
SpanChain part_chain(const SequencePlan& plan, int64_t row, const Transitions& transitions);

using EmitState = std::function<void(int span, const Tensor& state)>;
/// Emits the incoming state of the spans [first, last); the first one's is `entering`.
void fold_states(Context& ctx, const SpanChain& chain, int first, int last, const Tensor& entering,
                 const EmitState& emit);
/// Emits the last-state gradient of the spans (last, first], downwards; the last one's is `exiting`.
void fold_gradients(Context& ctx, const SpanChain& chain, int first, int last, const Tensor& exiting,
                    const EmitState& emit);
/// S_out of one span, M·S_in + B, and dS_in, Mᵀ·dS_out + D.
Tensor outgoing_state(Context& ctx, const SpanChain& chain, int span, const Tensor& incoming);
Tensor incoming_gradient(Context& ctx, const SpanChain& chain, int span, const Tensor& outgoing);
/// Copies a state, or zeros if it is undefined, to row `row` of `rows`.
void set_row(const Tensor& rows, int64_t row, const Tensor& state);

/// An exchange under way: `finish` runs when its ticket is done.
class StartedForward final : public SpanExchange::Forward {
 public:
  StartedForward(Ticket ticket, std::function<IncomingState()> finish)
      : ticket_(std::move(ticket)), finish_(std::move(finish)) {}
  IncomingState wait() override {
    ticket_.wait();
    return finish_();
  }

 private:
  Ticket ticket_;
  std::function<IncomingState()> finish_;
};

class StartedBackward final : public SpanExchange::Backward {
 public:
  StartedBackward(Ticket ticket, std::function<Tensor()> finish)
      : ticket_(std::move(ticket)), finish_(std::move(finish)) {}
  Tensor wait() override {
    ticket_.wait();
    return finish_();
  }

 private:
  Ticket ticket_;
  std::function<Tensor()> finish_;
};

/// What every algorithm holds.
class PartExchange : public SpanExchange {
 public:
  PartExchange(Context& ctx, Comm& comm, const SequencePlan& plan) : ctx_(ctx), comm_(comm), plan_(plan) {}

 protected:
  /// [R, HV, K, V]
  Tensor empty_states(const SpanShape& shape) const;
  /// Writes what a fold over the parts of a row gives to this rank's parts into their rows of `states`.
  EmitState keep_mine(int64_t row, const Tensor& states) const;

  Context& ctx_;
  Comm& comm_;
  const SequencePlan& plan_;
};

// The algorithms. Context, comm and plan must outlive them.
std::unique_ptr<SpanExchange> make_all_gather_exchange(Context& ctx, Comm& comm, const SequencePlan& plan);
std::unique_ptr<SpanExchange> make_chain_exchange(Context& ctx, Comm& comm, const SequencePlan& plan);
std::unique_ptr<SpanExchange> make_head_split_exchange(Context& ctx, Comm& comm, const SequencePlan& plan);
std::unique_ptr<SpanExchange> make_two_level_exchange(Context& ctx, Comm& comm, const SequencePlan& plan,
                                                      int ranks_per_node);
/// The rule of StateExchange::kAuto, on a rank's summary.
bool prefers_head_split(const SpanShape& shape, int num_ranks);
/// StateExchange::kAuto: the all-gather or the head split, decided anew for each summary's sizes.
std::unique_ptr<SpanExchange> make_auto_exchange(Context& ctx, Comm& comm, const SequencePlan& plan);

}  // namespace spanwise
