#pragma once
// Retention (Sun et al., arXiv 2307.08621), fla's `retnet` layer:
//
//   S_t = e^{g_h} S_{t-1} + k_t v_tᵀ,   o_t = q_tᵀ S_t / √K,   g_h = ln(1 − 2^{−5−h}),   q, k rotated (RoPE)
//   out = o_proj(RMSNorm(o) ∘ silu(g_proj x)), the norm per head
//
// Parameters: q_proj, k_proj, v_proj, g_proj, g_norm_swish_gate [V], o_proj. Without output_gate the norm is
// called g_norm and nothing gates.

#include "models/mixers/linear_mixer.h"

namespace spanwise {

struct RetentionOptions {
  static constexpr std::string_view kName = "retention";
  using Layer = class Retention;
  LinearHeads heads;      ///< key_dim even
  double rope_theta = 0;  ///< base of the rotary frequencies
  bool output_gate = false;
  int64_t chunk = 0;
};

class Retention : public Mixer {
 public:
  Retention(const RetentionOptions& options, const SharedOptions& shared);
  Var forward(Tape& tape, const Var& x, const LayerContext& context) const override;
  void visit(const std::string& prefix, const ParamVisitor& visitor) override;
  static std::vector<double> log_decays(int64_t num_heads);

 private:
  double rope_theta_;
  LinearStateOptions family_;
  std::vector<double> log_decays_;  // of all ranks' heads
  HeadSplit heads_;
  QkvProjection qkv_;
  GatedOutput out_;
};

}  // namespace spanwise
