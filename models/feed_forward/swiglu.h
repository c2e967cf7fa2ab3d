#pragma once
// SwiGLU (Shazeer, arXiv 2002.05202): down_proj(silu(gate_proj x) ∘ up_proj x).
//
// Parameters: gate_proj, up_proj [intermediate, D], down_proj [D, intermediate].

#include "models/feed_forward/feed_forward.h"

namespace spanwise {

struct SwigluOptions {
  static constexpr std::string_view kName = "swiglu";
  using Layer = class Swiglu;
  int64_t intermediate = 0;
  bool recompute = false;  ///< backward computes gate_proj x and up_proj x again instead of keeping them
};

class Swiglu : public FeedForward {
 public:
  Swiglu(const SwigluOptions& options, const SharedOptions& shared);
  Var forward(Tape& tape, const Var& x, const LayerContext& context) const override;
  void visit(const std::string& prefix, const ParamVisitor& visitor) override;

 private:
  Recompute recompute_;
  Linear gate_proj_, up_proj_, down_proj_;
};

}  // namespace spanwise
