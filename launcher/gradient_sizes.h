#pragma once
// Bytes of parameters' gradients that a rank holds while one micro-batch's backward runs, from the layout
// alone (parallel/param_store.h, gradient_reducer.h). Backward goes through the model's parts from the last
// to the first; what comes in a part's backward is counted from its start. Where gradients are sharded, of
// the buckets that fill and leave meanwhile only the largest are whole at a time: one that fills, and those
// that are on their way.

#include <cstdint>
#include <vector>

#include "models/language_model.h"
#include "parallel/param_layout.h"

namespace spanwise {

class GradientSizes {
 public:
  /// `params` are the model's. `dtype`: of activations.
  GradientSizes(const ParamLayout& params, const LanguageModel& model, DType dtype, int zero_stage);

  /// While the backward of part `part` of LanguageModel::parts runs. The loss's comes after the norm's, tied
  /// or not.
  int64_t during(int part) const;
  /// All buckets: from the second micro-batch's forward on, where there are several.
  int64_t whole() const;
  /// What the optimizer reads.
  int64_t at_update() const;

 private:
  struct Bucket {
    int64_t bytes, slice_bytes;
    int first, last;  ///< parts whose backward brings the first gradient, and completes it
  };
  std::vector<Bucket> buckets_;  ///< in the order in which they are reduced
  bool sharded_;
};

}  // namespace spanwise
