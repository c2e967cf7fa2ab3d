#include "models/language_model.h"

#include "core/ops/embedding.h"
#include "core/ops/linear.h"
#include "core/ops/linear_cross_entropy.h"
#include "core/ops/rms_norm.h"

namespace spanwise {

size_t GenerationState::bytes() const {
  size_t total = 0;
  for (const MixerState& layer : layers) total += layer.bytes();
  return total;
}

LanguageModel::LanguageModel(const LanguageModelOptions& options)
    : options_(options),
      tensor_stream_(options.shared.tensor, options.shard_norms),
      norm_(tensor_stream_.parameter(options.shared.hidden)) {
  const SharedOptions& shared = options.shared;
  require_sizes("model", {{"vocab_size", options.vocab_size},
                          {"layers", int64_t(options.layers.size())},
                          {"hidden", shared.hidden}});
  const SplitDim vocabulary = divide_unevenly(shared.tensor, options.vocab_size, "model.vocab_size");
  const Init init = init::normal(shared.linear.init_stddev);
  vocabulary_ = dim_part(shared.tensor, vocabulary, "cross entropy");
  embeddings_ = split_param({0, shared.hidden}, 0, vocabulary, init);
  if (!options.tie_embeddings) lm_head_ = split_param({0, shared.hidden}, 0, vocabulary, init);
  LayerPlace place{.layer = 0, .num_layers = int64_t(options.layers.size())};
  for (const LayerOptions& layer : options.layers) {
    blocks_.push_back(std::make_unique<Block>(layer, shared, place, tensor_stream_));
    ++place.layer;
  }
}

Stream LanguageModel::forward(Tape& tape, const TokenBatch& batch, GenerationState* state) const {
  const SequenceLayout& layout = batch.layout;
  const Var embedded = with_part(tape, gate_, in_order(0), [&] {
    return embedding(tape, batch.tokens, {layout.batch(), layout.length()}, embeddings_, vocabulary_);
  });
  Stream stream{tensor_stream_.leave(tape, embedded), Var()};
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const auto run_block = [&block = *blocks_[i], gate = gate_, part = in_order(layer_part(i))](
                               Tape& t, const Stream& in, const LayerContext& context) {
      return with_part(t, gate, part, [&] { return block.forward(t, in, context); });
    };
    if (!options_.activation_checkpointing || !tape.saving()) {
      stream = run_block(tape, stream, {layout, state ? &state->layers[i] : nullptr, batch.sequence});
      continue;
    }
    const auto section = [run_block, &layout, sequence = batch.sequence](Tape& t,
                                                                         const std::vector<Var>& in) {
      const Stream out = run_block(t, {in[0], in[1]}, {.layout = layout, .sequence = sequence});
      return std::vector<Var>{out.delta, out.residual};
    };
    const std::vector<Var> out = checkpoint(tape, section, {stream.delta, stream.residual});
    stream = {out[0], out[1]};
  }
  return stream;
}

Var LanguageModel::final_norm(Tape& tape, const Var& delta, const Var& residual) const {
  return with_part(tape, gate_, in_order(norm_part()), [&] {
    return add_rms_norm(tape, delta, residual, norm_.var(), options_.shared.norm_eps).normed;
  });
}

Var LanguageModel::loss(Tape& tape, const TokenBatch& batch, double loss_scale) const {
  const Stream stream = forward(tape, batch, nullptr);
  const Var h = tensor_stream_.enter(tape, final_norm(tape, stream.delta, stream.residual),
                                     {batch.layout.batch(), batch.layout.length(), options_.shared.hidden});
  return with_part(tape, gate_, in_order(norm_part() + 1), [&] {
    return linear_cross_entropy(
               tape, h, head(), batch.labels,
               {.loss_scale = loss_scale, .chunk_rows = options_.loss_chunk_rows, .part = vocabulary_})
        .loss;
  });
}

Tensor LanguageModel::next_logits(Context& ctx, const std::vector<int32_t>& tokens,
                                  GenerationState& state) const {
  SPANWISE_CHECK(!tokens.empty(), "next_logits needs at least one token");
  SPANWISE_CHECK(options_.shared.tensor.size() == 1, "generation runs on one tensor rank, this model has {}",
                 options_.shared.tensor.size());
  state.layers.resize(blocks_.size());
  Tape tape(ctx, Tape::Mode::kInference);
  const int64_t length = int64_t(tokens.size());
  const SequenceLayout layout(1, length, {}, {state.position});
  const Stream stream = forward(tape, {tokens, {}, layout}, &state);
  state.position += length;

  const int64_t hidden = options_.shared.hidden;
  const auto last = [&](const Var& x) {
    return Var(x.value().reshape({length, hidden}).row_range(length - 1, length));
  };
  const Var h = final_norm(tape, last(stream.delta), last(stream.residual));
  const Var logits =
      with_part(tape, gate_, in_order(norm_part() + 1), [&] { return linear(tape, h, head()); });
  return logits.value().reshape({options_.vocab_size});
}

PartInOrder LanguageModel::in_order(int position) const {
  const auto at = [this](int i) {
    return i < 0 || i > norm_part() + 1 ? ParamGate::kNoPart : i > norm_part() ? head_part() : i;
  };
  return {at(position - 1), at(position), at(position + 1)};
}

std::vector<std::string> LanguageModel::parts() const {
  std::vector<std::string> parts{"model.embeddings."};
  for (size_t i = 0; i < blocks_.size(); ++i) parts.push_back(fmt::format("model.layers.{}.", i));
  parts.push_back("model.norm.");
  if (!options_.tie_embeddings) parts.push_back("lm_head.");
  return parts;
}

void LanguageModel::visit(const std::string& prefix, const ParamVisitor& visitor) {
  visitor(prefix + "model.embeddings.weight", embeddings_);
  for (size_t i = 0; i < blocks_.size(); ++i)
    blocks_[i]->visit(fmt::format("{}model.layers.{}.", prefix, i), visitor);
  norm_.visit(prefix + "model.norm.", visitor);
  if (!options_.tie_embeddings) visitor(prefix + "lm_head.weight", lm_head_);
}

}  // namespace spanwise
