#pragma once
// Sums gradients over the ranks, bucket by bucket, while backward still runs:
//
//   for each micro-batch: [before the last one's backward: reducer.expect_last_backward()], forward, backward
//   reducer.finish()
//
// The tape tells through parameters' hooks when a gradient is complete; a bucket whose parameters are all
// complete is reduced at once, all-reduced in ZeRO stage 0 and reduce-scattered in the others. Micro-batches
// before the last one only add up locally, so gradients travel once a step. Buckets start in a fixed order,
// last parameters first as backward goes, so that ranks agree even where one of them does not use a
// parameter. What is summed is a sum, not a mean: losses are scaled by the global count of targets.
//
// Received bytes of a step, with G bytes of all buckets and W ranks of data × sequence: "grad_reduce"
// 2 (W − 1)/W · G in stage 0, (W − 1)/W · G in the others. Partial gradients (Placement) are first summed
// over the T tensor ranks as whole parameters, after backward: "grad_reduce_partial" 2 (T − 1)/T · their
// bytes.

#include <deque>

#include "parallel/param_store.h"

namespace spanwise {

/// Parameters whose partial gradients are summed over the tensor ranks together. Ranks may hold different
/// ranges of a parameter, so that what they share lies at different places of their buckets: the sum is taken
/// over whole parameters. Groups are formed by global sizes, equal on every rank.
struct PartialGradients {
  std::vector<int> entries;
  int64_t numel = 0;  ///< of the whole parameters
};
std::vector<PartialGradients> partial_gradient_groups(const ParamLayout& layout);

class GradientReducer {
 public:
  /// Buckets of stages 2 and 3 that are reduced at a time: each keeps its memory, and more of them would undo
  /// what these stages save.
  static constexpr size_t kMaxInFlightSharded = 2;

  /// Sets the parameters' hooks; the store must outlive the reducer.
  explicit GradientReducer(ParamStore& params);
  ~GradientReducer();
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;

  void expect_last_backward();
  /// Reduces what backward did not complete and joins everything: ParamStore::reduced_grad is valid then.
  void finish();
  /// Buckets whose reduction was started by backward itself since expect_last_backward.
  int num_overlapped() const { return num_overlapped_; }

 private:
  struct Started {
    int bucket;
    Ticket ticket;
  };
  void on_complete(int entry);
  void start_complete_buckets();
  void start(int bucket);
  void join_oldest();
  void sum_partial_gradients();
  void sum_over_tensor(const std::vector<int>& entries, int64_t numel);

  ParamStore& params_;
  std::vector<int> order_;  ///< buckets in the order they are started; those with partial gradients last
  size_t num_eager_ = 0;    ///< buckets of order_ that backward may start
  bool last_backward_ = false;
  size_t next_ = 0;           ///< in order_
  std::vector<int> missing_;  ///< parameters of each bucket that are not complete
  std::vector<char> complete_;
  std::deque<Started> started_;
  int num_overlapped_ = 0;
};

}  // namespace spanwise
