#include "models/mixers/linear_attention.h"

#include <cmath>

#include "core/ops/pointwise.h"
#include "core/ops/rms_norm.h"

namespace spanwise {

LinearAttention::LinearAttention(const LinearAttentionOptions& o, const SharedOptions& shared)
    : feature_map_(o.feature_map),
      norm_eps_(shared.norm_eps),
      family_(family_options(shared, o.kName, 1.0 / std::sqrt(double(o.heads.key_dim)), o.chunk)),
      heads_(split_over_ranks(shared.tensor, o.heads, o.kName)),
      qkv_(shared, heads_, {}) {
  if (o.feature_map == FeatureMap::kElementwiseProduct) {
    const SplitDim features = share(shared.tensor, o.heads.key_dim);
    for (ProductMap* map : {&map_q_, &map_k_}) {
      map->layer1 = Linear(o.heads.key_dim, features, shared.linear, Linear::Bias::kYes);
      map->layer2 = Linear(o.heads.key_dim, features, shared.linear, Linear::Bias::kYes);
    }
  }
  norm_ = NormWeight(share(shared.tensor, o.heads.value_dim));
  o_proj_ = Linear(heads_.value_channels(), shared.hidden, shared.linear);
}

Var LinearAttention::mapped(Tape& tape, const Var& x, const ProductMap& map) const {
  switch (feature_map_) {
    case FeatureMap::kIdentity:
      return x;
    case FeatureMap::kElementwiseProduct:
      return multiply(tape, map.layer1(tape, x), map.layer2(tape, x));
    case FeatureMap::kElu:
      return activation(tape, x, Activation::kEluPlusOne);
    case FeatureMap::kRelu:
      return activation(tape, x, Activation::kReLU);
  }
  SPANWISE_FAIL("unknown feature map {}", int(feature_map_));
}

Var LinearAttention::forward(Tape& tape, const Var& x, const LayerContext& context) const {
  LinearOperands<Var> operands = qkv_(tape, x, context);
  operands.q = mapped(tape, operands.q, map_q_);
  operands.k = mapped(tape, operands.k, map_k_);
  const Var o = run_family(tape, kScalarDecay, operands, context, family_);
  return o_proj_(tape, merge_heads(tape, rms_norm(tape, o, norm_.var(), norm_eps_)));
}

void LinearAttention::visit(const std::string& prefix, const ParamVisitor& visitor) {
  qkv_.visit(prefix, visitor);
  map_q_.layer1.visit(prefix + "feature_map_q.layer1.", visitor);
  map_q_.layer2.visit(prefix + "feature_map_q.layer2.", visitor);
  map_k_.layer1.visit(prefix + "feature_map_k.layer1.", visitor);
  map_k_.layer2.visit(prefix + "feature_map_k.layer2.", visitor);
  norm_.visit(prefix + "norm.", visitor);
  o_proj_.visit(prefix + "o_proj.", visitor);
}

}  // namespace spanwise
