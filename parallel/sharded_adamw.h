#pragma once
// AdamW on what this rank updates (ParamStore::updated_range): all elements in ZeRO stage 0, its slices in
// the others, after which every rank gathers the values.
//
//   reducer.finish();  norm = optimizer.squared_grad_norm();  optimizer.step({.lr = …}, {norm, max_norm})
//
// A step gives the gradients' memory back, for the next forward's activations.
//
// The norm stays on the device, which clips by it: on a GPU nothing waits between backward and the next
// forward. In BF16 the masters are updated and the model's copies written with them.
//
// Received bytes of a step in stages 1 and 2, with P bytes that the model reads of all buckets:
// "param_gather" (W − 1)/W · P.

#include <optional>
#include <vector>

#include "core/optim/adamw.h"
#include "core/optim/clip.h"
#include "parallel/param_store.h"

namespace spanwise {

class ShardedAdamW {
 public:
  /// Moments are zero. The store must outlive the optimizer.
  explicit ShardedAdamW(ParamStore& params);

  /// Squared Euclidean norm of all ranks' reduced gradients, each element of the model taken once: F64 [1] on
  /// the device, the same number on every rank. Collective.
  Tensor squared_grad_norm();
  /// Its root, on the host. Collective.
  double grad_norm();
  /// Updates values and moments from the reduced gradients, which are gone then (ParamStore::drop_grads).
  /// Weight decay is left out for parameters that have none. Collective.
  void step(const AdamWHyper& hyper, const GradientClip& clip = {});

  // Flat, as ParamStore::make_moment: the checkpoint's exp_avg and exp_avg_sq.
  const Tensor& first_moment() const { return first_; }
  const Tensor& second_moment() const { return second_; }

 private:
  /// Elements of a bucket's updated range: [begin, begin + numel) of ParamStore::reduced_grad.
  struct GradRange {
    int bucket;
    int64_t begin, numel;
  };
  std::vector<GradRange> find_owned() const;
  std::vector<Tensor> gradients(const std::vector<GradRange>& ranges);

  ParamStore& params_;
  Tensor first_, second_;
  /// One an updated bucket where updates are shared, so that sharing one overlaps updating the next; else
  /// one.
  std::vector<AdamW> updates_;
  std::vector<std::vector<GradRange>> grads_;    ///< of each update's spans
  std::optional<std::vector<GradRange>> owned_;  ///< found when first asked for: not every model has them
};

}  // namespace spanwise
