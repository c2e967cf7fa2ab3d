#pragma once
// A decoder-only language model: embedding, blocks as a list of layers says, norm, output projection.
// Parameter names are fla's: model.embeddings.weight, model.layers.{i}.attn_norm.weight,
// model.layers.{i}.attn.…, model.layers.{i}.mlp_norm.weight, model.layers.{i}.mlp.{gate,up,down}_proj.weight,
// model.norm.weight, lm_head.weight.
//
// Over several tensor ranks (options.shared.tensor) every rank gets the same tokens and returns the same
// loss; heads, feed-forward columns and vocabulary rows are divided; the stream between blocks is whole on
// every rank or, with shard_norms, divided by tokens.

#include <memory>
#include <string>
#include <vector>

#include "models/block.h"
#include "parallel/param_gate.h"

namespace spanwise {

struct LanguageModelOptions {
  int64_t vocab_size = 0;
  bool tie_embeddings = false;
  std::vector<LayerOptions> layers;  ///< from the embeddings to the head; any may have any mixer
  SharedOptions shared;
  int64_t loss_chunk_rows = 0;            ///< CrossEntropyOptions::chunk_rows; 0: its choice
  bool shard_norms = false;               ///< tensor ranks divide the stream and its norms by tokens
  bool activation_checkpointing = false;  ///< each block is recomputed in backward
};

/// The tokens of one micro-batch.
struct TokenBatch {
  const std::vector<int32_t>& tokens;  ///< [B·T]
  const std::vector<int32_t>& labels;  ///< [B·T]; −100 = no target
  const SequenceLayout& layout;
  /// The rows are this rank's spans of longer ones; null: they are whole.
  const SequenceParallel* sequence = nullptr;
};

/// One MixerState a layer.
struct GenerationState {
  std::vector<MixerState> layers;
  int64_t position = 0;  ///< tokens seen
  size_t bytes() const;
};

class LanguageModel : public Module {
 public:
  explicit LanguageModel(const LanguageModelOptions& options);

  /// loss_scale · Σ over targets of −ln p(label): with loss_scale = 1 / (targets of the whole global batch),
  /// gradients summed over ranks and micro-batches are those of the mean loss.
  Var loss(Tape& tape, const TokenBatch& batch, double loss_scale) const;

  /// Feeds tokens (one sequence) and returns the logits [vocab] that follow the last one. Inference only, on
  /// one tensor rank.
  Tensor next_logits(Context& ctx, const std::vector<int32_t>& tokens, GenerationState& state) const;

  void visit(const std::string& prefix, const ParamVisitor& visitor) override;
  /// Name prefixes of the parts that are read one after another: embeddings, each layer, norm, head.
  std::vector<std::string> parts() const;
  /// Asked for each part, by its index in parts(), around its use; null (the default): parameters are always
  /// there. With a gate every forward and backward is collective.
  void set_param_gate(ParamGate* gate) { gate_ = gate; }
  const LanguageModelOptions& options() const { return options_; }

 private:
  Stream forward(Tape& tape, const TokenBatch& batch, GenerationState* state) const;
  Var final_norm(Tape& tape, const Var& delta, const Var& residual) const;
  const Var& head() const { return options_.tie_embeddings ? embeddings_.var : lm_head_.var; }

  int layer_part(size_t layer) const { return 1 + int(layer); }
  int norm_part() const { return layer_part(blocks_.size()); }
  int head_part() const { return options_.tie_embeddings ? 0 : norm_part() + 1; }
  /// Parts in the order of forward: the embeddings first, the head last, though they may be one.
  PartInOrder in_order(int position) const;

  LanguageModelOptions options_;
  TensorStream tensor_stream_;
  DimPart vocabulary_;
  ParamGate* gate_ = nullptr;
  Param embeddings_, lm_head_;
  std::vector<std::unique_ptr<Block>> blocks_;
  NormWeight norm_;
};

}  // namespace spanwise
