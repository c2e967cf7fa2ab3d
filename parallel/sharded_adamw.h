#pragma once
// AdamW on what this rank updates (ParamStore::updated_range): all elements in ZeRO stage 0, its slices in
// the others, after which every rank gathers the values.
//
//   reducer.finish();  norm = optimizer.grad_norm();  optimizer.step({.lr = …, .grad_scale = …, …})
//
// Received bytes of a step in stages 1 and 2, with P bytes of all buckets: "param_gather" (W − 1)/W · P.

#include "core/optim/adamw.h"
#include "parallel/param_store.h"

namespace spanwise {

class ShardedAdamW {
 public:
  /// Moments are zero. The store must outlive the optimizer.
  explicit ShardedAdamW(ParamStore& params);

  /// Euclidean norm of all ranks' reduced gradients, each element of the model taken once. The same number on
  /// every rank. Collective.
  double grad_norm() const;
  /// Updates values and moments from the reduced gradients. Weight decay is left out for parameters that have
  /// none. Collective.
  void step(const AdamWHyper& hyper);

  // Flat, as ParamStore::make_moment: the checkpoint's exp_avg and exp_avg_sq.
  const Tensor& first_moment() const { return first_; }
  const Tensor& second_moment() const { return second_; }

 private:
  ParamStore& params_;
  Tensor first_, second_;
};

}  // namespace spanwise
