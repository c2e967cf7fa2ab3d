#include "launcher/config/sizes.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "launcher/config/derived.h"
#include "launcher/config/layer_list.h"
#include "launcher/config/layers.h"

namespace spanwise {

namespace {

using config::ModelConfig;

struct Product {
  std::string fields;  ///< with their values
  double size;
  double most;
  const char* what;
};

double product(std::initializer_list<double> factors) {
  double size = 1;
  for (const double factor : factors) size *= factor;
  return size;
}

/// A layer's channels inside, and what its fields are called.
struct Width {
  std::string fields;
  double channels;
};

/// A linear mixer, which has states.
struct States {
  std::string path;
  MixerHeads heads;
};

class Products {
 public:
  Products(const RunConfig& config, int world_size, int64_t vocab)
      : config_(config), model_(config.model()), train_(config.train()), vocab_(vocab) {
    add_tokens(world_size);
    for (const UsedLayer& layer : used_layers(model_)) add_mixer(layer);
    if (has_swiglu(model_)) {
      const int64_t inner = intermediate_size(model_);
      widths_.push_back({fmt::format("a SwiGLU width of {} (model.intermediate_size, or model.hidden_size x "
                                     "model.hidden_ratio)",
                                     inner),
                         double(inner)});
    }
    for (const Width& width : widths_)
      products_.push_back({width.fields, width.channels, double(kMostWidth), "channels"});
    add_parameters();
    add_activations();
    for (const States& states : states_) add_states(states);
  }

  const std::vector<Product>& all() const { return products_; }

 private:
  void add_mixer(const UsedLayer& layer) {
    const MixerRow* row = mixer_row(*layer.config);
    if (!row) return;
    const std::string path = layer.path + "." + mixer_name(*layer.config);
    const MixerHeads heads = row->heads(model_, *layer.config);
    for (const HeadGroup& group : {heads.keys, heads.values}) {
      widths_.push_back(
          {fmt::format("{}.{} {} x {} channels a head", path, group.field, group.count, group.channels),
           product({double(group.count), double(group.channels)})});
    }
    if (row->is_linear) states_.push_back({path, heads});
  }

  void add_tokens(int world_size) {
    const double length = double(train_.sequence_length()), rows = double(train_.micro_batch());
    tokens_ = rows * length;
    row_tokens_ = fmt::format("train.micro_batch {} x train.sequence_length {}", train_.micro_batch(),
                              train_.sequence_length());
    passes_ = double(accumulation_passes(config_, world_size));
    const int64_t ranks = config_.parallel().sequence();
    products_.push_back(
        {ranks > 1 ? fmt::format("{} / parallel.sequence {}", row_tokens_, ranks) : row_tokens_,
         rows * std::ceil(length / double(ranks)), double(kMostTokensAtOnce), "tokens on a rank at once"});
    products_.push_back({fmt::format("train.steps {} x train.global_batch {} x train.sequence_length {}",
                                     train_.steps(), train_.global_batch(), train_.sequence_length()),
                         product({double(train_.steps()), double(train_.global_batch()), length}),
                         kMostTokens, "tokens"});
  }

  /// Something that every pass of a step holds, and may exchange.
  void add(const std::string& fields, double size, const char* what) {
    products_.push_back({fields, size, kMostElements, what});
    products_.push_back({fmt::format("{}, in each of the {} passes of a step (train.global_batch / "
                                     "train.micro_batch / data ranks),",
                                     fields, passes_),
                         size * passes_, kMostElementsAStep, what});
  }

  std::string layers() const {
    return fmt::format("{} {}", lists_layers(model_) ? "the layers of model.layer," : "model.num_layers",
                       num_layers_);
  }

  void add_parameters() {
    const double hidden = double(model_.hidden_size());
    const std::string name = fmt::format("model.hidden_size {}", model_.hidden_size());
    add(fmt::format("{} x a vocabulary of {}", name, vocab_), hidden * double(vocab_), "parameters");
    for (const Width& width : widths_) {
      add(fmt::format("{} x {} x {}", layers(), name, width.fields),
          product({num_layers_, hidden, width.channels}), "parameters");
    }
  }

  void add_activations() {
    std::vector<Width> widths = widths_;
    widths.push_back(
        {fmt::format("model.hidden_size {}", model_.hidden_size()), double(model_.hidden_size())});
    for (const Width& width : widths) {
      add(fmt::format("{} x {} x {}", row_tokens_, layers(), width.fields),
          product({tokens_, num_layers_, width.channels}), "activations");
    }
    const double chunk = std::min(tokens_, double(train_.loss_chunk_tokens()));
    add(fmt::format("train.loss_chunk_tokens {} x a vocabulary of {}", train_.loss_chunk_tokens(), vocab_),
        chunk * double(vocab_), "logits");
  }

  /// A state, and its transition, of every chunk and head; those of all sequence ranks' rows; and a chunk's
  /// products of tokens with tokens.
  void add_states(const States& mixer) {
    const int64_t value_heads = mixer.heads.values.count;
    const double chunk = std::min(double(model_.chunk_size()), double(train_.sequence_length())),
                 heads = double(value_heads), K = double(mixer.heads.keys.channels),
                 V = double(mixer.heads.values.channels),
                 rows = 2.0 * double(train_.micro_batch()) * double(config_.parallel().sequence()),
                 states = tokens_ / std::min(chunk, 64.0) + rows;
    add(fmt::format("{} x states of {}'s {} value heads of {} x {} channels, one a model.chunk_size {}, x {}",
                    row_tokens_, mixer.path, value_heads, mixer.heads.keys.channels,
                    mixer.heads.values.channels, model_.chunk_size(), layers()),
        product({num_layers_, states, heads, K, K + V}), "elements");
    add(fmt::format("{} x model.chunk_size {} x {}'s {} value heads", row_tokens_, model_.chunk_size(),
                    mixer.path, value_heads),
        product({tokens_, chunk, heads}), "elements");
  }

  const RunConfig& config_;
  const ModelConfig& model_;
  const config::TrainConfig& train_;
  const int64_t vocab_;
  const double num_layers_ = double(num_layers(model_));
  double tokens_ = 0, passes_ = 0;  ///< of whole rows: sequence ranks gather keys and values of all
  std::string row_tokens_;
  std::vector<Width> widths_;
  std::vector<States> states_;
  std::vector<Product> products_;
};

}  // namespace

std::vector<std::string> size_problems(const RunConfig& config, int world_size,
                                       std::optional<int64_t> tokenizer_vocab_size) {
  const int64_t vocab =
      config.model().vocab_size() > 0 ? config.model().vocab_size() : tokenizer_vocab_size.value_or(0);
  const Products products(config, world_size, vocab);
  // The first of those that are above their limits: tokens and widths, of which the others are made.
  for (const Product& p : products.all()) {
    if (p.size <= p.most) continue;
    return {fmt::format("{} is {:.3g} {}; at most {:.3g} can be counted: lower one of them", p.fields, p.size,
                        p.what, p.most)};
  }
  return {};
}

}  // namespace spanwise
