#pragma once
// What sequence ranks hold while they exchange states, keys and values, algorithm by algorithm
// (parallel/state_exchange_*.cpp, attention_*.cpp), in elements of the activations' dtype. Rows are one
// document each.

#include "launcher/flat_model.h"
#include "launcher/size_tape.h"
#include "parallel/sequence_parallel.h"
#include "parallel/state_exchange.h"

namespace spanwise {

/// Rows that are one document each.
SequencePlan whole_documents(const SequencePartition& partition, int rank, int64_t batch);

/// The summary of a linear layer.
SpanShape span_shape(const FlatMixers& options, MixerKind kind, int64_t rows, DType dtype);
/// The algorithm that AUTO stands for; others stand for themselves.
StateExchange chosen_exchange(StateExchange exchange, const SpanShape& shape, int num_ranks);

/// What a run computes on, and its activations.
struct ComputeKind {
  Device device;
  DType dtype;
  /// Statistics, gates and states are of the dtype's accumulation_dtype: the elements of dtype that take as
  /// much as `elems` of them.
  int64_t precise(int64_t elems) const {
    return elems * int64_t(size_of(accumulation_dtype(dtype)) / size_of(dtype));
  }
  int64_t elems_of(int64_t bytes) const { return bytes / int64_t(size_of(dtype)); }
};

/// Beside what the op itself allocates.
struct StateExchangeSizes {
  int64_t received = 0;  ///< incoming states and other ranks' transitions, kept until backward
  int64_t forward = 0;   ///< most at a time, `received` included
  // Backward, beside the gradients that the rank hands in:
  int64_t travelling = 0;  ///< while the op computes what needs no incoming gradient
  int64_t finishing = 0;   ///< most while the exchange ends
  int64_t finished = 0;    ///< while the op goes on from the incoming gradients
};
StateExchangeSizes state_exchange_sizes(const SequenceParallelOptions& options, const SpanShape& shape,
                                        const SequencePlan& plan, const ComputeKind& compute);

/// Softmax attention over sequence ranks, without its inputs. `options` has the heads of this tensor rank.
SizedOp attention_over_ranks(AttentionExchange exchange, const AttentionOptions& options,
                             const SequencePlan& plan, const ComputeKind& compute, int queries);

}  // namespace spanwise
