#include "models/mixers/linear_attention.h"

#include <cmath>

#include "core/ops/pointwise.h"
#include "core/ops/rms_norm.h"

namespace spanwise {

LinearAttention::LinearAttention(const MixerOptions& options)
    : options_(options), qkv_(options, Activation::kNone, QkvConv::kNone) {
  const LinearMixerOptions& o = options.linear;
  if (o.feature_map == FeatureMap::kElementwiseProduct) {
    const SplitDim features = share(options.tensor, o.key_dim);
    for (ProductMap* map : {&map_q_, &map_k_}) {
      map->layer1 = Linear(o.key_dim, features, options.init_stddev, Linear::Bias::kYes);
      map->layer2 = Linear(o.key_dim, features, options.init_stddev, Linear::Bias::kYes);
    }
  }
  norm_ = NormWeight(share(options.tensor, o.value_dim));
  o_proj_ = Linear(split_over_ranks(options).values.times(o.value_dim), options.hidden, options.init_stddev);
}

Var LinearAttention::feature_map(Tape& tape, const Var& x, const ProductMap& map) const {
  switch (options_.linear.feature_map) {
    case FeatureMap::kElementwiseProduct:
      return multiply(tape, map.layer1(tape, x), map.layer2(tape, x));
    case FeatureMap::kElu:
      return activation(tape, x, Activation::kEluPlusOne);
    case FeatureMap::kRelu:
      return activation(tape, x, Activation::kReLU);
    case FeatureMap::kIdentity:
      return x;
  }
  SPANWISE_FAIL("unknown feature map {}", int(options_.linear.feature_map));
}

Var LinearAttention::forward(Tape& tape, const Var& x, const MixerContext& context) const {
  QkvProjection::Heads heads = qkv_(tape, x, context);
  heads.q = feature_map(tape, heads.q, map_q_);
  heads.k = feature_map(tape, heads.k, map_k_);
  const Var o = run_scalar_decay(tape, heads, {}, context,
                                 {.scale = 1.0 / std::sqrt(double(options_.linear.key_dim)),
                                  .chunk = options_.linear.chunk,
                                  .recompute = options_.recompute});
  return o_proj_(tape, merge_heads(tape, rms_norm(tape, o, norm_.var(), options_.norm_eps)));
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
