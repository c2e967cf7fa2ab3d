#pragma once
// Lightning Attention-2 (Qin et al., arXiv 2401.04658) in the layer of MiniMax-Text-01:
//
//   q, k, v = silu(projections);   S_t = e^{g_h} S_{t-1} + k_t v_tᵀ,   o_t = q_tᵀ S_t
//   g_h = −2^{−8(h+1)/H} · (1 − ℓ/(L − 1 + 1e-5) + 1e-5)   for head h of layer ℓ of L
//   out = o_proj(RMSNorm over all heads(o) ∘ σ(g_proj x))
//
// Parameters: q_proj, k_proj, v_proj, g_proj, o_proj, norm [HV·V] (MiniMax packs q|k|v per head into qkv_proj
// and calls g_proj output_gate, o_proj out_proj).

#include "models/mixers/linear_mixer.h"

namespace spanwise {

struct LightningOptions {
  static constexpr std::string_view kName = "lightning";
  using Layer = class Lightning;
  LinearHeads heads;
  bool output_gate = false;
  int64_t chunk = 0;
};

class Lightning : public Mixer {
 public:
  Lightning(const LightningOptions& options, const SharedOptions& shared, const LayerPlace& place);
  Var forward(Tape& tape, const Var& x, const LayerContext& context) const override;
  void visit(const std::string& prefix, const ParamVisitor& visitor) override;
  /// g_h for every head.
  static std::vector<double> log_decays(int64_t num_heads, int64_t layer, int64_t num_layers);

 private:
  double norm_eps_;
  LinearStateOptions family_;
  std::vector<double> log_decays_;  // of all ranks' heads
  HeadSplit heads_;
  QkvProjection qkv_;
  Linear g_proj_, o_proj_;
  NormWeight norm_;
  DimPart norm_part_;
};

}  // namespace spanwise
