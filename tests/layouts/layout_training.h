#pragma once
// A small model in training on the ranks of a mesh, and what is compared of it.

#include <memory>

#include "models/language_model.h"
#include "parallel/gradient_reducer.h"
#include "parallel/sharded_adamw.h"
#include "tests/layouts/layout_row.h"

namespace spanwise::testing {

/// The CPU: one thread, poisoned memory.
Context& layout_context();

/// A parameter, or its gradient, whatever the layout: whole, in the host's memory.
struct WholeTensor {
  std::string name;
  Tensor values;
};

class LayoutTraining {
 public:
  /// The mesh must have the row's shape and outlive this, as must ctx. Collective, as everything here.
  LayoutTraining(const Row& row, const Mesh& mesh, Context& ctx = layout_context());

  /// Forward and backward of the step's global batch, gradients reduced. The same loss on every rank.
  double forward_backward(int step);
  /// AdamW on these gradients, clipped.
  void update(int step);
  /// Of steps 1 … num_steps, each with its update.
  std::vector<double> losses(int num_steps);

  std::vector<WholeTensor> values() const;
  /// What a checkpoint holds: values, first and second moments.
  std::vector<WholeTensor> state() const;
  /// Goes on from another layout's state: what loading a checkpoint does. Not collective.
  void set_state(const std::vector<WholeTensor>& state);
  /// After forward_backward. Error if a rank holds other bits than the owner of an element.
  std::vector<WholeTensor> gradients();

 private:
  std::vector<RankBatch> load(int step) const;

  Row row_;
  const Mesh& mesh_;
  Context& ctx_;
  LanguageModel model_;
  ParamStore params_;
  GradientReducer reducer_;
  ShardedAdamW optimizer_;
};

}  // namespace spanwise::testing
