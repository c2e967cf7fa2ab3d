#pragma once
// Lightning Attention-2 (Qin et al., arXiv 2401.04658) in the layer of MiniMax-Text-01:
//
//   q, k, v = silu(projections);   S_t = e^{g_h} S_{t-1} + k_t v_tᵀ,   o_t = q_tᵀ S_t
//   g_h = −2^{−8(h+1)/H} · (1 − ℓ/(L − 1 + 1e-5) + 1e-5)   for head h of layer ℓ of L
//   out = o_proj(RMSNorm over all heads(o) ∘ σ(g_proj x))
//
// Parameters: q_proj, k_proj, v_proj, g_proj, o_proj, norm [HV·V] (MiniMax packs q|k|v per head into qkv_proj
// and calls g_proj output_gate, o_proj out_proj). Reads num_heads, num_value_heads, key_dim, value_dim,
// output_gate, chunk.

#include "models/mixers/heads.h"

namespace spanwise {

class Lightning : public Mixer {
 public:
  explicit Lightning(const MixerOptions& options);
  Var forward(Tape& tape, const Var& x, const MixerContext& context) const override;
  void visit(const std::string& prefix, const ParamVisitor& visitor) override;
  /// g_h for every head.
  static std::vector<double> log_decays(int64_t num_heads, int64_t layer, int64_t num_layers);

 private:
  MixerOptions options_;
  SplitDim heads_;
  QkvProjection qkv_;
  Linear g_proj_, o_proj_;
  NormWeight norm_;
  DimPart norm_part_;
};

}  // namespace spanwise
