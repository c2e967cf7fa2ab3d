#include "launcher/checkpoint/settings.h"

#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <optional>
#include <set>
#include <sstream>

#include "core/check.h"
#include "launcher/config/derived.h"
#include "launcher/config/layer_list.h"
#include "launcher/config/upgrade.h"
#include "launcher/config/values.h"
#include "launcher/words.h"

namespace spanwise {

namespace {

using config::ModelConfig;
using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using Settings = std::map<std::string, std::string>;

constexpr const char* kInitSeed = "run.init_seed";
constexpr const char* kTokenizerKind = "data.tokenizer.kind";
constexpr const char* kTokenizerModel = "data.tokenizer.model";
constexpr const char* kPattern = "model.layer_pattern";
constexpr std::string_view kLayers = "model.layer";
/// Before it settings had the names of configs of an older form.
constexpr uint32_t kFirstFormatOfLayers = 3;

// Change speed and rounding, or the first weights alone; hidden_ratio is in intermediate_size; letters are
// names.
const std::set<std::string, std::less<>> kWithoutMeaning = {
    "model.chunk_size", "model.initializer_range", "model.hidden_ratio", "model.layer", "model.layer.letter"};

bool is_of_layer(const std::string& path) {
  return path.starts_with(kLayers) && path.size() > kLayers.size() &&
         (path[kLayers.size()] == '.' || path[kLayers.size()] == '[');
}

/// Where in `path` behind "model.layer.L" or "model.layer[3]" the layer's own fields begin, with a dot.
size_t end_of_label(const std::string& path) {
  return std::min(path.find('.', kLayers.size() + 1), path.size());
}

/// "model.layer.gated_delta_net.num_heads" of "model.layer.L.gated_delta_net.num_heads"; others stay.
std::string in_schema(const std::string& path) {
  return is_of_layer(path) ? std::string(kLayers) + path.substr(end_of_label(path)) : path;
}

/// The model's layers from first to last: letters, or in a list the number of the first that is the same.
std::vector<std::string> labels_in_depth(const ModelConfig& model) {
  std::vector<std::string> labels;
  std::map<std::string, size_t> first;
  for (const config::LayerConfig* layer : layers_in_depth(model)) {
    const size_t same = first.emplace(layer->SerializeAsString(), labels.size()).first->second;
    labels.push_back(layer->letter().empty() ? std::to_string(same) : layer->letter());
  }
  return labels;
}

/// "LLLN", and of a list "0 0 0 3".
std::string pattern_of(const std::vector<std::string>& labels, bool listed) {
  return fmt::format("{}", fmt::join(labels, listed ? " " : ""));
}

std::vector<std::string> labels_of(const std::string& value) {
  std::vector<std::string> labels;
  const std::string pattern = value.size() >= 2 ? value.substr(1, value.size() - 2) : "";  // in quotes
  if (!pattern.empty() && std::isdigit(static_cast<unsigned char>(pattern[0]))) {
    std::istringstream words(pattern);
    for (std::string word; words >> word;) labels.push_back(word);
  } else {
    for (const char letter : pattern) labels.emplace_back(1, letter);
  }
  return labels;
}

std::string path_of(const std::string& label) {
  const bool number = std::isdigit(static_cast<unsigned char>(label[0]));
  return number ? fmt::format("{}[{}]", kLayers, label) : fmt::format("{}.{}", kLayers, label);
}

/// Settings with their layers under the names that the same places have in `now`; nothing if a layer of `now`
/// stands for several.
std::optional<Settings> with_names_of(const std::string& now, const Settings& then) {
  const auto pattern = then.find(kPattern);
  const std::vector<std::string> names = labels_of(now),
                                 former = labels_of(pattern == then.end() ? "" : pattern->second);
  if (names.size() != former.size()) return std::nullopt;
  std::map<std::string, std::string> former_of;
  for (size_t i = 0; i < names.size(); ++i) {
    if (former_of.emplace(names[i], former[i]).first->second != former[i]) return std::nullopt;
  }
  Settings renamed;
  for (const auto& [path, value] : then) {
    if (!is_of_layer(path)) renamed[path] = value;
  }
  for (const auto& [name, former_name] : former_of) {
    const std::string prefix = path_of(former_name) + ".";
    for (auto it = then.lower_bound(prefix); it != then.end() && it->first.starts_with(prefix); ++it)
      renamed[path_of(name) + "." + it->first.substr(prefix.size())] = it->second;
  }
  renamed[kPattern] = now;
  return renamed;
}

void add_defaults(const Descriptor& type, const std::string& path, Settings& values) {
  const auto& standard = *google::protobuf::MessageFactory::generated_factory()->GetPrototype(&type);
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    const std::string field_path = path + "." + field.name();
    if (field.message_type()) {
      add_defaults(*field.message_type(), field_path, values);
    } else if (!kWithoutMeaning.count(field_path)) {
      values[field_path] = value_text(standard, field);
    }
  }
}

/// Values of the schema's defaults, by path in the schema: what a program had that did not know the field
/// yet.
const Settings& default_settings() {
  static const Settings values = [] {
    Settings all;
    add_defaults(*ModelConfig::descriptor(), "model", all);
    return all;
  }();
  return values;
}

const std::vector<std::string>& known_settings() {
  static const std::vector<std::string> known = [] {
    std::vector<std::string> all = {kInitSeed, kTokenizerKind, kTokenizerModel, "model.layer.mixer",
                                    "model.layer.feed_forward"};
    for (const auto& [path, value] : default_settings()) all.push_back(path);
    return all;
  }();
  return known;
}

bool is_known(const std::string& path) {
  const auto& known = known_settings();
  return std::find(known.begin(), known.end(), in_schema(path)) != known.end();
}

struct Difference {
  std::string path, then, now;
};

/// Whether `path` is of a mixer or feed-forward that the layer did not have: that it has another is said.
bool is_of_other_part(const std::string& path, const Settings& then) {
  if (!is_of_layer(path)) return false;
  const size_t label_end = end_of_label(path), part_end = path.find('.', label_end + 1);
  if (part_end == path.npos) return false;
  const std::string part = path.substr(label_end + 1, part_end - label_end - 1),
                    layer = path.substr(0, label_end);
  for (const char* choice : {".mixer", ".feed_forward"}) {
    const auto chosen = then.find(layer + choice);
    if (chosen != then.end() && chosen->second == part) return false;
  }
  return true;
}

// Fields that other fields leave without effect are in neither list, or in one: then those others differ.
std::vector<Difference> differences(const Manifest& manifest, const std::vector<Setting>& now,
                                    CheckpointUse use) {
  Settings recorded;
  for (const Manifest::Setting& setting : manifest.settings()) recorded[setting.path()] = setting.value();
  if (manifest.format_version() < kFirstFormatOfLayers) recorded = upgraded_settings(recorded);
  const auto pattern =
      std::find_if(now.begin(), now.end(), [](const Setting& setting) { return setting.path == kPattern; });
  const auto renamed = pattern == now.end() ? std::nullopt : with_names_of(pattern->value, recorded);
  const Settings& then = renamed ? *renamed : recorded;
  std::vector<Difference> found;
  for (const Setting& setting : now) {
    if (use == CheckpointUse::kWeightsOnly && setting.path == kInitSeed) continue;
    if (is_of_layer(setting.path) && (!renamed || is_of_other_part(setting.path, then))) continue;
    const auto value = then.find(setting.path);
    const auto standard = default_settings().find(in_schema(setting.path));
    if (value == then.end() && standard == default_settings().end()) continue;
    const std::string& text = value != then.end() ? value->second : standard->second;
    if (text != setting.value) found.push_back({setting.path, text, setting.value});
  }
  for (const auto& [path, value] : then) {
    if (!is_known(path)) found.push_back({path, value, "a setting that this build does not know"});
  }
  return found;
}

}  // namespace

std::vector<Setting> settings_of(const RunConfig& config, const Tokenizer& tokenizer, int64_t vocab_size) {
  std::set<std::string> unused;
  for (const UnusedField& field : unused_fields(config)) unused.insert(field.path);
  ModelConfig model = resolved_model(config.model(), vocab_size);
  const std::vector<std::string> labels = labels_in_depth(model);
  const bool listed = lists_layers(model);
  model.set_vocab_size(vocab_size);
  model.set_num_layers(num_layers(config.model()));
  model.set_layer_pattern(pattern_of(labels, listed));
  unused.erase("model.num_layers");
  unused.erase(kPattern);
  std::set<std::string> layers;
  for (const std::string& label : labels) layers.insert(path_of(label));
  std::vector<Setting> settings;
  for (const ConfigValue& value : config_values(model, "model")) {
    if (unused.count(value.path) || kWithoutMeaning.count(value.field)) continue;
    if (is_of_layer(value.path) && !layers.count(value.path.substr(0, end_of_label(value.path)))) continue;
    settings.push_back({value.path, value.text});
  }
  const config::TokenizerConfig::Kind kind = config.data().tokenizer().kind();
  settings.push_back({kTokenizerKind, config::TokenizerConfig::Kind_Name(kind)});
  if (kind == config::TokenizerConfig::SENTENCEPIECE) {
    settings.push_back({kTokenizerModel, fmt::format("of CRC-32C {:08x}", tokenizer.checksum())});
  }
  settings.push_back({kInitSeed, std::to_string(init_seed(config))});
  return settings;
}

void put_settings(const std::vector<Setting>& settings, Manifest& manifest) {
  manifest.clear_settings();
  for (const Setting& setting : settings) {
    Manifest::Setting* entry = manifest.add_settings();
    entry->set_path(setting.path);
    entry->set_value(setting.value);
  }
}

std::vector<std::string> compare_settings(const std::string& directory, const Manifest& manifest,
                                          const std::vector<Setting>& now, const RunConfig& config,
                                          CheckpointUse use) {
  if (manifest.settings().empty()) {
    return {
        fmt::format("{} is older than the record of model settings and tokenizer in checkpoints: those of "
                    "the config are taken as they are",
                    directory)};
  }
  const auto& accepted = config.checkpoint().accept_changed();
  std::vector<std::string> lines;
  std::string refused, paths;
  for (const Difference& difference : differences(manifest, now, use)) {
    const auto& [path, then, today] = difference;
    if (std::find(accepted.begin(), accepted.end(), path) != accepted.end()) {
      lines.push_back(fmt::format("{} is {}; {} was trained with {} (accepted by checkpoint.accept_changed)",
                                  path, today, directory, then));
      continue;
    }
    refused +=
        fmt::format("{}{} {}, where the config has {}", refused.empty() ? "" : ", and ", path, then, today);
    paths += fmt::format(" --set checkpoint.accept_changed={}", path);
  }
  if (refused.empty()) return lines;
  fail_user("{} was trained with {}; set it as it was, or, if the change is meant, accept it with{}",
            directory, refused, paths);
}

std::vector<std::string> accept_changed_problems(const RunConfig& config) {
  std::vector<std::string> problems;
  for (const std::string& path : config.checkpoint().accept_changed()) {
    if (is_known(path)) continue;
    std::string near = nearest_word(in_schema(path), known_settings());
    if (is_of_layer(near) && is_of_layer(path))
      near = path.substr(0, end_of_label(path)) + near.substr(kLayers.size());
    problems.push_back(fmt::format(
        "checkpoint.accept_changed: '{}' is no setting that checkpoints are compared in{}; name one such as "
        "model.norm_eps or data.tokenizer.model",
        path, near.empty() ? "" : fmt::format(" (did you mean '{}'?)", near)));
  }
  return problems;
}

}  // namespace spanwise
