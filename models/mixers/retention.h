#pragma once
// Retention (Sun et al., arXiv 2307.08621), fla's `retnet` layer:
//
//   S_t = e^{g_h} S_{t-1} + k_t v_tᵀ,   o_t = q_tᵀ S_t / √K,   g_h = ln(1 − 2^{−5−h}),   q, k rotated (RoPE)
//   out = o_proj(RMSNorm(o) ∘ silu(g_proj x)), the norm per head
//
// Parameters: q_proj, k_proj, v_proj, g_proj, g_norm_swish_gate [V], o_proj. Reads num_heads,
// num_value_heads, key_dim, value_dim, output_gate, rope_theta, chunk; without output_gate the norm is called
// g_norm and nothing gates.

#include "models/mixers/heads.h"

namespace spanwise {

class Retention : public Mixer {
 public:
  explicit Retention(const MixerOptions& options);
  Var forward(Tape& tape, const Var& x, const MixerContext& context) const override;
  void visit(const std::string& prefix, const ParamVisitor& visitor) override;
  static std::vector<double> log_decays(int64_t num_heads);

 private:
  MixerOptions options_;
  SplitDim heads_;
  QkvProjection qkv_;
  GatedOutput out_;
};

}  // namespace spanwise
