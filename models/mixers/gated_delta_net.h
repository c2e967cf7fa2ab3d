#pragma once
// DeltaNet (Yang et al., arXiv 2406.06484) and Gated DeltaNet (arXiv 2412.06464):
//
//   S_t = e^{g_t} (I − β_t k_t k_tᵀ) S_{t-1} + β_t k_t v_tᵀ,   o_t = q_tᵀ S_t / √K,   ‖q‖ = ‖k‖ = 1
//   β = σ(b_proj x), or 2σ with allow_neg_eigval (Grazzi et al., arXiv 2411.12537)
//   Gated DeltaNet: g = −e^{A_log} softplus(a_proj x + dt_bias);   DeltaNet: g = 0
//
// Parameters: q_proj, k_proj, v_proj (+ q_conv1d, …), b_proj [HV, D]; Gated DeltaNet a_proj [HV, D], A_log,
// dt_bias [HV]; g_proj with output_gate; o_norm [V], o_proj.

#include "models/mixers/linear_mixer.h"

namespace spanwise {

struct GatedDeltaNetOptions {
  static constexpr std::string_view kName = "gated_delta_net";
  using Layer = class GatedDeltaNet;
  LinearHeads heads;
  int64_t conv_size = 0;          ///< of the short convolutions; 0: SiLU alone on q, k and v
  bool allow_neg_eigval = false;  ///< β in (0, 2) instead of (0, 1)
  bool output_gate = false;
  int64_t chunk = 0;
};

struct DeltaNetOptions {
  static constexpr std::string_view kName = "delta_net";
  using Layer = class GatedDeltaNet;
  LinearHeads heads;
  int64_t conv_size = 0;          ///< as GatedDeltaNetOptions
  bool allow_neg_eigval = false;  ///< β in (0, 2) instead of (0, 1)
  bool output_gate = false;
  int64_t chunk = 0;
};

class GatedDeltaNet : public Mixer {
 public:
  GatedDeltaNet(const GatedDeltaNetOptions& options, const SharedOptions& shared);
  GatedDeltaNet(const DeltaNetOptions& options, const SharedOptions& shared);
  Var forward(Tape& tape, const Var& x, const LayerContext& context) const override;
  void visit(const std::string& prefix, const ParamVisitor& visitor) override;

 private:
  enum class Decay { kNone, kScalarGate };
  GatedDeltaNet(const DeltaNetOptions& options, Decay decay, std::string_view name,
                const SharedOptions& shared, const HeadSplit& split);
  double beta_scale_;
  LinearStateOptions family_;
  QkvProjection qkv_;
  Linear a_proj_, b_proj_;  // a_proj_, A_log_, dt_bias_: Gated DeltaNet alone
  Param A_log_, dt_bias_;
  GatedOutput out_;
};

}  // namespace spanwise
