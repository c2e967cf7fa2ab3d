#pragma once
// DeltaNet (Yang et al., arXiv 2406.06484) and Gated DeltaNet (arXiv 2412.06464):
//
//   S_t = e^{g_t} (I − β_t k_t k_tᵀ) S_{t-1} + β_t k_t v_tᵀ,   o_t = q_tᵀ S_t / √K,   ‖q‖ = ‖k‖ = 1
//   β = σ(b_proj x), or 2σ with allow_neg_eigval (Grazzi et al., arXiv 2411.12537)
//   Gated DeltaNet: g = −e^{A_log} softplus(a_proj x + dt_bias);   DeltaNet: g = 0
//
// Parameters: q_proj, k_proj, v_proj (+ q_conv1d, …), b_proj [HV, D]; Gated DeltaNet a_proj [HV, D], A_log,
// dt_bias [HV]; g_proj with output_gate; o_norm [V], o_proj. Reads every field of LinearMixerOptions but
// conv_bias, feature_map and rope_theta. Without short_conv, q, k and v pass through SiLU.

#include "models/mixers/heads.h"

namespace spanwise {

class GatedDeltaNet : public Mixer {
 public:
  enum class Decay { kNone, kScalarGate };
  GatedDeltaNet(const MixerOptions& options, Decay decay);
  Var forward(Tape& tape, const Var& x, const MixerContext& context) const override;
  void visit(const std::string& prefix, const ParamVisitor& visitor) override;

 private:
  MixerOptions options_;
  Decay decay_;
  QkvProjection qkv_;
  Linear a_proj_, b_proj_;
  Param A_log_, dt_bias_;
  GatedOutput out_;
};

}  // namespace spanwise
