#pragma once
// A module names its parameters once, in `visit`; initialisation, sharding, the optimizer, checkpoints,
// counting and export all walk that.

#include <functional>
#include <string>
#include <vector>

#include "core/autograd.h"
#include "core/rng.h"

namespace spanwise {

/// Value of the element at a global index, a pure function of the parameter's random stream: weights do not
/// depend on the layout.
using Init = std::function<double(const RandomStream&, uint64_t index)>;

namespace init {
Init normal(double stddev);
Init uniform(double low, double high);
Init constant(double value);
/// log(U(low, high)): A_log of Mamba2 and Gated DeltaNet. low = 0 is taken as the smallest positive sample.
Init log_uniform_range(double low, double high);
/// dt_bias: softplus⁻¹(dt), dt = e^U(ln 1e-3, ln 0.1), at least 1e-4 (reference: Mamba2, Dao & Gu 2024).
Init dt_bias(double min = 1e-3, double max = 0.1, double floor = 1e-4);
}  // namespace init

/// Where a rank's part of a tensor-parallel parameter lies in the whole. Along `dim`, the part is the global
/// ranges one after another. Ranges of different ranks may overlap (key/value heads held by several ranks).
struct Placement {
  struct Range {
    int64_t begin, end;
  };
  Shape global;  ///< of the whole parameter; no dimensions: this rank holds all of it
  int dim = 0;
  std::vector<Range> ranges;  ///< non-overlapping, ascending
  /// True if an element that several tensor ranks hold gets only a part of its gradient on each: they are
  /// summed over the tensor axis. False: every holder computes the whole gradient.
  bool partial_gradient = false;

  bool sharded() const { return global.num_dims() > 0; }
};

struct Param {
  Shape shape;  ///< of this rank's part
  Init init;
  bool weight_decay = true;
  Placement placement{};
  Var var{};  ///< filled by the parameter store

  operator const Var&() const { return var; }
  int64_t numel() const { return shape.numel(); }
  /// Of the whole parameter.
  const Shape& global_shape() const { return placement.sharded() ? placement.global : shape; }
};

/// Elements [local, local + count) of a rank's part are elements [global, global + count) of the whole, both
/// row-major.
struct ElementRun {
  int64_t local, global, count;
};
/// The part's runs in its order; one for a parameter that is not sharded. Error where shape and placement do
/// not fit each other.
std::vector<ElementRun> element_runs(const Param& param);

using ParamVisitor = std::function<void(const std::string& name, Param& param)>;

class Module {
 public:
  virtual ~Module() = default;
  /// Calls visitor(prefix + local name, param) for every parameter, in a fixed order: that of the forward
  /// pass.
  virtual void visit(const std::string& prefix, const ParamVisitor& visitor) = 0;
  /// Elements over all parameters.
  int64_t num_parameters();
};

}  // namespace spanwise
