#pragma once
// What a mixer needs when its sequence is spread over ranks: the exchange of span summaries (LASP-2, arXiv
// 2502.07563) for linear mixers, the halo of short convolutions, and attention over all ranks' keys and
// values (LASP-2H, ring, Ulysses). Layers call these in the same order on every rank. With one rank nothing
// is communicated.

#include <map>
#include <memory>

#include "core/autograd.h"
#include "core/ops/span.h"
#include "parallel/comm.h"
#include "parallel/halo.h"
#include "parallel/sequence_partition.h"

namespace spanwise {

/// How span summaries travel. All give equal results up to rounding; bytes a rank receives a layer are in
/// docs/sequence_parallel.md.
enum class StateExchange {
  kAuto,       ///< all-gather up to 4 MiB a rank, then head-split where heads divide by ranks
  kAllGather,  ///< LASP-2: every rank gets every summary and folds its own prefix
  kChain,      ///< LASP-1: each part waits for its predecessor's state; the baseline
  kHeadSplit,  ///< all-to-all, every rank folds its share of the heads, all-to-all back
  kTwoLevel,   ///< all-gather inside a node, one composed summary a node between nodes
};

enum class AttentionExchange {
  kAllGather,  ///< LASP-2H: gather keys and values, reduce-scatter their gradients; windows fetch a halo
  kRing,       ///< pass keys and values round, merge by log-sum-exp
  kUlysses,    ///< all-to-all between tokens and heads
};

struct SequenceParallelOptions {
  StateExchange exchange = StateExchange::kAuto;
  AttentionExchange attention = AttentionExchange::kAllGather;
  int ranks_per_node = 1;  ///< kTwoLevel
};

class SequenceParallel {
 public:
  /// `comm` is the sequence axis. All three, and this object, must outlive every backward of what it
  /// computed.
  SequenceParallel(Context& ctx, Comm& comm, const SequencePlan& plan, SequenceParallelOptions options);
  ~SequenceParallel();

  const SequencePlan& plan() const { return plan_; }
  /// For core/ops linear-state ops on local rows.
  SpanExchange& spans() const { return *spans_; }
  /// x [R, capacity, C] → the `width` inputs before each local row, [R, width, C]: a short convolution's
  /// initial state. Zeros (and no gradient) where they belong to another document. Parts shorter than width
  /// are crossed.
  Var halo(Tape& tape, const Var& x, int64_t width) const;
  /// Causal softmax attention of local queries [R, capacity, H, d] over the whole rows' keys and values,
  /// given locally as [R, capacity, HKV, d]; window as causal_key_ranges.
  Var attention(Tape& tape, const Var& q, const Var& k, const Var& v, int64_t window, double scale) const;

 private:
  Comm& comm_;
  const SequencePlan& plan_;
  SequenceParallelOptions options_;
  std::unique_ptr<SpanExchange> spans_;
  mutable std::map<int64_t, Halo> halos_;  ///< by width: every layer's convolutions ask for the same
};

}  // namespace spanwise
