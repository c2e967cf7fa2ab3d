#pragma once
// One pre-norm block: h = x + mixer(norm(x)), out = h + feed_forward(norm(h)). Without a mixer or without a
// feed-forward that line goes, with its norm. Both are divided over the tensor ranks; the block adds their
// terms, so that the stream is whole on every rank, or each rank has some of its rows
// (parallel/tensor_parallel.h).
//
// Parameters: attn_norm, attn.… of the mixer; mlp_norm, mlp.… of the feed-forward (fla's names).

#include "models/layer_options.h"

namespace spanwise {

/// The residual stream between blocks is residual + delta; the addition is fused into the next norm.
/// [B, T, hidden], or sharded [rows, hidden].
struct Stream {
  Var delta;
  Var residual;  ///< undefined before the first block
};

class Block : public Module {
 public:
  /// Error if the layer has neither mixer nor feed-forward.
  Block(const LayerOptions& options, const SharedOptions& shared, const LayerPlace& place,
        const TensorStream& stream);
  Stream forward(Tape& tape, const Stream& stream, const LayerContext& context) const;
  void visit(const std::string& prefix, const ParamVisitor& visitor) override;

 private:
  /// The stream with layer(norm(stream)) as its delta.
  template <class Layer>
  Stream add(Tape& tape, const Stream& stream, const NormWeight& norm, const Layer& layer,
             const LayerContext& context) const;

  TensorStream tensor_stream_;
  int64_t hidden_;
  double norm_eps_;
  NormWeight mixer_norm_, feed_forward_norm_;
  std::unique_ptr<Mixer> mixer_;
  std::unique_ptr<FeedForward> feed_forward_;
};

}  // namespace spanwise
