#pragma once
// The small layers every mixer and block is made of: parameters with their names, and the op that reads them.
// Sizes are SplitDims: a plain number is a dimension that every tensor rank holds whole. No layer
// communicates.

#include "core/module.h"
#include "core/ops/linear.h"
#include "core/ops/pointwise.h"
#include "core/ops/short_conv.h"
#include "models/layer_context.h"
#include "parallel/tensor_parallel.h"

namespace spanwise {

/// What kind of linear layer: one value that is handed down to all of a model.
struct LinearStyle {
  double init_stddev = 0;  ///< of the normal distribution of the initial weights
};

/// y = x Wᵀ (+ b). Parameters "weight" [out, in], "bias" [out]. With `out` divided y holds this rank's
/// columns; with `in` divided x does, and y is one term of a sum over ranks; at most one is, and the bias
/// goes with `out`.
class Linear : public Module {
 public:
  enum class Bias { kNo, kYes };
  Linear() = default;
  Linear(const SplitDim& in, const SplitDim& out, const LinearStyle& style, Bias bias = Bias::kNo);
  Var operator()(Tape& tape, const Var& x, Recompute recompute = Recompute::kNo) const;
  void visit(const std::string& prefix, const ParamVisitor& visitor) override;
  /// A default-constructed layer does not exist: it visits nothing.
  bool exists() const { return weight_.shape.num_dims() > 0; }

 private:
  Param weight_, bias_;
};

/// Root-mean-square norm weight: parameter "weight" [width], initially 1.
class NormWeight : public Module {
 public:
  NormWeight() = default;
  explicit NormWeight(const SplitDim& width);
  const Var& var() const { return weight_.var; }
  void visit(const std::string& prefix, const ParamVisitor& visitor) override;
  bool exists() const { return weight_.shape.num_dims() > 0; }

 private:
  Param weight_;
};

/// Depthwise causal convolution + activation over x [B, T, channels]. Parameters "weight" [channels, 1,
/// size], "bias".
class ShortConv : public Module {
 public:
  ShortConv() = default;
  ShortConv(const SplitDim& channels, int64_t size, double init_stddev, Activation activation,
            Linear::Bias bias = Linear::Bias::kNo);
  /// `state` [B, size − 1, channels]: the last inputs of the previous call, read if defined and replaced. May
  /// be null. `heads` of the result are divided by their length.
  Var operator()(Tape& tape, const Var& x, const LayerContext& context, Tensor* state,
                 const L2Heads& heads = {}) const;
  void visit(const std::string& prefix, const ParamVisitor& visitor) override;
  bool exists() const { return weight_.shape.num_dims() > 0; }

 private:
  Param weight_, bias_;
  Activation activation_ = Activation::kSiLU;
};

}  // namespace spanwise
