#include <algorithm>

#include "launcher/config/checks.h"
#include "launcher/config/layer_list.h"
#include "launcher/config/layers.h"

namespace spanwise {

using config::LayerConfig;
using config::ModelConfig;

namespace {

/// Each layer is some objects, here and in a plan.
constexpr int64_t kMostLayers = 10'000;

/// Whether letters are letters, each defined once, or there are none.
bool check_letters(const ModelConfig& model, Problems& problems) {
  const size_t before = problems.size();
  const auto listed = std::count_if(model.layer().begin(), model.layer().end(),
                                    [](const LayerConfig& layer) { return layer.letter().empty(); });
  if (listed > 0 && listed < model.layer_size()) {
    problems.add(
        "model.layer has {} entries with a letter and {} without; give all of them one, for "
        "model.layer_pattern, or "
        "none, which lists the model's layers",
        model.layer_size() - listed, listed);
  }
  std::string seen;
  for (const LayerConfig& layer : model.layer()) {
    const std::string& letter = layer.letter();
    if (letter.empty()) continue;
    if (!is_letter(letter)) {
      problems.add("model.layer has the letter \"{}\"; it must be one letter, A to Z or a to z", letter);
    } else if (seen.find(letter) != seen.npos) {
      problems.add("model.layer defines the letter {} twice; keep one of them", letter);
    }
    seen += letter;
  }
  return problems.size() == before;
}

void check_pattern(const ModelConfig& model, Problems& problems) {
  if (lists_layers(model)) {
    problems.at_least(1, "model.layer's number of entries", model.layer_size(), kMostLayers);
    return;
  }
  const std::string& pattern = model.layer_pattern();
  const int64_t layers = model.num_layers(), length = int64_t(pattern.size());
  const bool ok = problems.at_least(1, "model.num_layers", layers, kMostLayers);
  const auto undefined = std::find_if(pattern.begin(), pattern.end(), [&](char letter) {
    return !is_letter({&letter, 1}) || !find_layer(model, {&letter, 1});
  });
  if (pattern.empty()) {
    problems.add("model.layer_pattern is \"\"; it must be the letters of layers, e.g. \"LLLN\"");
  } else if (undefined != pattern.end() && !is_letter({&*undefined, 1})) {
    problems.add("model.layer_pattern is \"{}\"; it must be letters, A to Z or a to z, e.g. \"LLLN\"",
                 pattern);
  } else if (undefined != pattern.end()) {
    problems.add(
        "model.layer_pattern \"{0}\" has {1}, which is not defined; add layer {{ letter: \"{1}\" ... }} to "
        "model, or "
        "take L (Gated DeltaNet) or N (softmax attention)",
        pattern, *undefined);
  } else if (ok && layers % length != 0) {
    problems.add(
        "model.num_layers {} is not a multiple of the {} layers of model.layer_pattern \"{}\"; "
        "set model.num_layers: {}",
        layers, length, pattern, (layers / length + 1) * length);
  }
}

/// Heads over the tensor ranks, and over the sequence ranks where those exchange heads.
void check_division(const std::string& path, const MixerRow& row, const MixerHeads& heads,
                    const config::ParallelConfig& parallel, Problems& problems) {
  const int64_t tensor = parallel.tensor(), sequence = parallel.sequence();
  const std::string keys = fmt::format("{}.{}", path, heads.keys.field),
                    values = fmt::format("{}.{}", path, heads.values.field);
  if (keys != values) problems.divides(keys, heads.keys.count, "parallel.tensor", tensor, true);
  if (!problems.divides(values, heads.values.count, "parallel.tensor", tensor, false)) return;
  const bool ulysses = !row.is_linear && parallel.attention() == config::AttentionExchange::ULYSSES;
  const bool head_split = row.is_linear && parallel.exchange() == config::StateExchange::HEAD_SPLIT;
  if (ulysses || head_split)
    problems.divides(values + " (a tensor rank)", heads.values.count / tensor, "parallel.sequence", sequence,
                     false);
  if (ulysses)
    problems.divides(keys + " (a tensor rank)", std::max<int64_t>(heads.keys.count / tensor, 1),
                     "parallel.sequence", sequence, true);
}

void check_layer(const RunConfig& config, const UsedLayer& layer, Problems& problems) {
  const LayerConfig& own = *layer.config;
  const MixerRow* row = mixer_row(own);
  if (!row && own.feed_forward_case() == LayerConfig::FEED_FORWARD_NOT_SET)
    problems.add("{} has neither a mixer nor a feed-forward; give it one of them", layer.path);
  if (!row) return;
  const size_t before = problems.size();
  const std::string path = layer.path + "." + mixer_name(own);
  row->check({config.model(), own, path}, problems);
  const config::ParallelConfig& parallel = config.parallel();
  const auto in_range = [](int64_t ranks) { return ranks >= 1 && ranks <= kMostRanks; };
  if (problems.size() > before || !in_range(parallel.tensor()) || !in_range(parallel.sequence())) return;
  check_division(path, *row, row->heads(config.model(), own), parallel, problems);
}

}  // namespace

void check_model(const RunConfig& config, Problems& problems) {
  const ModelConfig& model = config.model();
  problems.at_least(0, "model.vocab_size", model.vocab_size());
  problems.positive("model.norm_eps", model.norm_eps());
  problems.positive("model.initializer_range", model.initializer_range());
  problems.at_least(1, "model.chunk_size", model.chunk_size());
  problems.at_least(0, "model.intermediate_size", model.intermediate_size());
  problems.factor("model.hidden_ratio", model.hidden_ratio());
  if (check_letters(model, problems)) check_pattern(model, problems);
  if (!problems.at_least(1, "model.hidden_size", model.hidden_size())) return;
  for (const UsedLayer& layer : used_layers(model)) check_layer(config, layer, problems);
}

}  // namespace spanwise
