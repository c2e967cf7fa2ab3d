#include "models/feed_forward/swiglu.h"

#include "core/ops/swiglu.h"

namespace spanwise {

Swiglu::Swiglu(const SwigluOptions& options, const SharedOptions& shared)
    : recompute_(options.recompute ? Recompute::kYes : Recompute::kNo) {
  require_sizes(options.kName, {{"intermediate", options.intermediate}});
  const SplitDim inner = divide_unevenly(shared.tensor, options.intermediate, "swiglu.intermediate_size");
  gate_proj_ = Linear(shared.hidden, inner, shared.linear);
  up_proj_ = Linear(shared.hidden, inner, shared.linear);
  down_proj_ = Linear(inner, shared.hidden, shared.linear);
}

Var Swiglu::forward(Tape& tape, const Var& x, const LayerContext&) const {
  const Var gate = gate_proj_(tape, x, recompute_), up = up_proj_(tape, x, recompute_);
  return down_proj_(tape, swiglu(tape, gate, up));
}

void Swiglu::visit(const std::string& prefix, const ParamVisitor& visitor) {
  gate_proj_.visit(prefix + "gate_proj.", visitor);
  up_proj_.visit(prefix + "up_proj.", visitor);
  down_proj_.visit(prefix + "down_proj.", visitor);
}

}  // namespace spanwise
