#pragma once
// Basic linear attention (Katharopoulos et al., arXiv 2006.16236) with a feature map and an output norm in
// place of the normaliser, as in Linear-MoE and fla:
//
//   S_t = S_{t-1} + φ(k_t) v_tᵀ,   o_t = φ(q_t)ᵀ S_t / √K,   out = o_proj(RMSNorm(o))
//
// φ: elementwise product (W₁x+b₁)∘(W₂x+b₂) with weights shared by the heads, elu(x)+1, relu(x), or identity.
// Parameters: q_proj, k_proj, v_proj, feature_map_{q,k}.layer{1,2}.{weight [K, K], bias [K]}, norm [V],
// o_proj.

#include "models/mixers/linear_mixer.h"

namespace spanwise {

enum class FeatureMap { kIdentity, kElementwiseProduct, kElu, kRelu };

struct LinearAttentionOptions {
  static constexpr std::string_view kName = "linear_attention";
  using Layer = class LinearAttention;
  LinearHeads heads;
  FeatureMap feature_map = FeatureMap::kIdentity;
  int64_t chunk = 0;
};

class LinearAttention : public Mixer {
 public:
  LinearAttention(const LinearAttentionOptions& options, const SharedOptions& shared);
  Var forward(Tape& tape, const Var& x, const LayerContext& context) const override;
  void visit(const std::string& prefix, const ParamVisitor& visitor) override;

 private:
  struct ProductMap {
    Linear layer1, layer2;
  };
  Var mapped(Tape& tape, const Var& x, const ProductMap& map) const;
  FeatureMap feature_map_;
  double norm_eps_;
  LinearStateOptions family_;
  HeadSplit heads_;
  QkvProjection qkv_;
  ProductMap map_q_, map_k_;
  NormWeight norm_;
  Linear o_proj_;
};

}  // namespace spanwise
