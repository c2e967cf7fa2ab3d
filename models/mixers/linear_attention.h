#pragma once
// Basic linear attention (Katharopoulos et al., arXiv 2006.16236) with a feature map and an output norm in
// place of the normaliser, as in Linear-MoE and fla:
//
//   S_t = S_{t-1} + φ(k_t) v_tᵀ,   o_t = φ(q_t)ᵀ S_t / √K,   out = o_proj(RMSNorm(o))
//
// φ: elementwise product (W₁x+b₁)∘(W₂x+b₂) with weights shared by the heads, elu(x)+1, relu(x), or identity.
// Parameters: q_proj, k_proj, v_proj, feature_map_{q,k}.layer{1,2}.{weight [K, K], bias [K]}, norm [V],
// o_proj. Reads num_heads, num_value_heads, key_dim, value_dim, feature_map, chunk.

#include "models/mixers/heads.h"

namespace spanwise {

class LinearAttention : public Mixer {
 public:
  explicit LinearAttention(const MixerOptions& options);
  Var forward(Tape& tape, const Var& x, const MixerContext& context) const override;
  void visit(const std::string& prefix, const ParamVisitor& visitor) override;

 private:
  struct ProductMap {
    Linear layer1, layer2;
  };
  Var feature_map(Tape& tape, const Var& x, const ProductMap& map) const;
  MixerOptions options_;
  QkvProjection qkv_;
  ProductMap map_q_, map_k_;
  NormWeight norm_;
  Linear o_proj_;
};

}  // namespace spanwise
