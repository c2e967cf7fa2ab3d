#include "models/block.h"

#include "core/ops/rms_norm.h"

namespace spanwise {

Block::Block(const LayerOptions& options, const SharedOptions& shared, const LayerPlace& place,
             const TensorStream& stream)
    : tensor_stream_(stream),
      hidden_(shared.hidden),
      norm_eps_(shared.norm_eps),
      mixer_(make_mixer(options.mixer, shared, place)),
      feed_forward_(make_feed_forward(options.feed_forward, shared, place)) {
  SPANWISE_CHECK(mixer_ || feed_forward_, "layer {} has neither a mixer nor a feed-forward", place.layer);
  const NormWeight norm(stream.parameter(shared.hidden));
  if (mixer_) mixer_norm_ = norm;
  if (feed_forward_) feed_forward_norm_ = norm;
}

template <class Layer>
Stream Block::add(Tape& tape, const Stream& stream, const NormWeight& norm, const Layer& layer,
                  const LayerContext& context) const {
  const Shape whole{context.layout.batch(), context.layout.length(), hidden_};
  const AddRmsNorm before = add_rms_norm(tape, stream.delta, stream.residual, norm.var(), norm_eps_);
  const Var out = layer.forward(tape, tensor_stream_.enter(tape, before.normed, whole), context);
  return {tensor_stream_.leave(tape, out), before.sum};
}

Stream Block::forward(Tape& tape, const Stream& stream, const LayerContext& context) const {
  Stream out = stream;
  if (mixer_) out = add(tape, out, mixer_norm_, *mixer_, context);
  if (feed_forward_) out = add(tape, out, feed_forward_norm_, *feed_forward_, context);
  return out;
}

void Block::visit(const std::string& prefix, const ParamVisitor& visitor) {
  mixer_norm_.visit(prefix + "attn_norm.", visitor);
  if (mixer_) mixer_->visit(prefix + "attn.", visitor);
  feed_forward_norm_.visit(prefix + "mlp_norm.", visitor);
  if (feed_forward_) feed_forward_->visit(prefix + "mlp.", visitor);
}

}  // namespace spanwise
