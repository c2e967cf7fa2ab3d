#pragma once
// Owns a module's parameters: values and gradients are slices of one flat buffer each, so reduction,
// clipping, the optimizer and sharding work on ranges.

#include <string>
#include <vector>

#include "core/module.h"

namespace spanwise {

struct ParamEntry {
  std::string name;  ///< global name: the checkpoint's key
  Param* param;
  int64_t offset;  ///< first element in the flat buffers; a multiple of 16, so that slices stay aligned
};

/// Elements [begin, end) that share optimizer settings.
struct ParamSpan {
  int64_t begin, end;
  bool weight_decay;
};

class ParamStore {
 public:
  enum class Gradients { kYes, kNo };

  /// Visits the module, allocates the buffers, writes the initial values (the element of parameter
  /// `name` at global index i is init(RandomStream(seed, name), i)) and gives every Param its Var. The module
  /// must outlive the store.
  ParamStore(Context& ctx, Module& module, DType dtype, uint64_t seed, Gradients gradients = Gradients::kYes);

  const std::vector<ParamEntry>& entries() const { return entries_; }
  int64_t num_parameters() const { return num_parameters_; }
  /// Flat [numel], padding included (always zero).
  const Tensor& values() const { return values_; }
  const Tensor& grads() const { return grads_; }
  /// Maximal runs of parameters of equal weight decay, covering the flat buffers.
  std::vector<ParamSpan> spans() const;
  /// The slice of a flat buffer laid out like values() that belongs to a parameter.
  Tensor slice(const Tensor& flat, const ParamEntry& entry) const {
    return flat.slice_flat(entry.offset, entry.param->shape);
  }
  void zero_grads() const;

 private:
  std::vector<ParamEntry> entries_;
  int64_t num_parameters_ = 0;
  Tensor values_, grads_;
};

}  // namespace spanwise
