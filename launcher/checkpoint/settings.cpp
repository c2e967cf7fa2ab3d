#include "launcher/checkpoint/settings.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/check.h"
#include "launcher/config/derived.h"
#include "launcher/words.h"

namespace spanwise {

namespace {

using config::ModelConfig;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr const char* kInitSeed = "run.init_seed";
constexpr const char* kTokenizerKind = "data.tokenizer.kind";
constexpr const char* kTokenizerModel = "data.tokenizer.model";

// Change speed and rounding, or the first weights alone; hidden_ratio is in intermediate_size.
const std::set<std::string, std::less<>> kWithoutMeaning = {"model.chunk_size", "model.initializer_range",
                                                            "model.hidden_ratio"};

/// What the zeros of the model's fields stand for. A pattern is repeated over the depth.
ModelConfig resolved(const ModelConfig& model, int64_t vocab_size) {
  ModelConfig whole = model;
  whole.set_vocab_size(vocab_size);
  whole.set_intermediate_size(intermediate_size(model));
  std::string pattern;
  while (int64_t(pattern.size()) < model.num_layers()) pattern += model.layer_pattern();
  whole.set_layer_pattern(pattern);
  if (pattern.find('N') != pattern.npos) {
    whole.mutable_attention()->set_num_kv_heads(attention_kv_heads(model.attention()));
    whole.mutable_attention()->set_head_dim(attention_head_dim(model));
  }
  if (pattern.find('L') != pattern.npos && model.linear_mixer() != ModelConfig::MAMBA2) {
    const LinearShape shape = linear_shape(model);
    whole.mutable_linear()->set_num_value_heads(shape.value_heads);
    whole.mutable_linear()->set_head_dim(shape.key_dim);
  }
  return whole;
}

std::string value_text(const Message& message, const FieldDescriptor& field) {
  std::string text;
  google::protobuf::TextFormat::PrintFieldValueToString(message, &field, -1, &text);
  return text;
}

/// Calls fn(path, message, field) for the single fields of `message`, whose place is `group`.
template <class F>
void for_each_field(const Message& message, const std::string& group, const std::set<std::string>& skip,
                    F&& fn) {
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *message.GetDescriptor()->field(i);
    const std::string path = group + "." + field.name();
    if (skip.count(path) || kWithoutMeaning.count(path)) continue;
    if (field.message_type()) {
      for_each_field(message.GetReflection()->GetMessage(message, &field), path, skip, fn);
    } else {
      fn(path, message, field);
    }
  }
}

/// Values of the schema's defaults, by path: what a program had that did not know the field yet.
std::map<std::string, std::string> default_settings() {
  std::map<std::string, std::string> values;
  for_each_field(ModelConfig::default_instance(), "model", {},
                 [&](const std::string& path, const Message& message, const FieldDescriptor& field) {
                   values[path] = value_text(message, field);
                 });
  return values;
}

bool is_known(const std::map<std::string, std::string>& defaults, const std::string& path) {
  return defaults.count(path) > 0 || path == kInitSeed || path == kTokenizerKind || path == kTokenizerModel;
}

struct Difference {
  std::string path, then, now;
};

// Fields that other fields leave without effect are in neither list, or in one: then those others differ.
std::vector<Difference> differences(const Manifest& manifest, const std::vector<Setting>& now,
                                    CheckpointUse use) {
  const std::map<std::string, std::string> defaults = default_settings();
  std::map<std::string, std::string> then, today;
  for (const Manifest::Setting& setting : manifest.settings()) then[setting.path()] = setting.value();
  std::vector<Difference> found;
  for (const Setting& setting : now) {
    today[setting.path] = setting.value;
    if (use == CheckpointUse::kWeightsOnly && setting.path == kInitSeed) continue;
    const auto recorded = then.find(setting.path);
    const auto standard = defaults.find(setting.path);
    const bool has_default = standard != defaults.end();
    if (recorded == then.end() && !has_default) continue;
    const std::string& value = recorded != then.end() ? recorded->second : standard->second;
    if (value != setting.value) found.push_back({setting.path, value, setting.value});
  }
  for (const auto& [path, value] : then) {
    if (!is_known(defaults, path)) found.push_back({path, value, "a setting that this build does not know"});
  }
  return found;
}

}  // namespace

std::vector<Setting> settings_of(const RunConfig& config, const Tokenizer& tokenizer, int64_t vocab_size) {
  std::set<std::string> unused;
  for (const UnusedField& field : unused_fields(config)) unused.insert(field.path);
  std::vector<Setting> settings;
  for_each_field(resolved(config.model(), vocab_size), "model", unused,
                 [&](const std::string& path, const Message& message, const FieldDescriptor& field) {
                   settings.push_back({path, value_text(message, field)});
                 });
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
  const std::map<std::string, std::string> defaults = default_settings();
  std::vector<std::string> known = {kInitSeed, kTokenizerKind, kTokenizerModel}, problems;
  for (const auto& [path, value] : defaults) known.push_back(path);
  for (const std::string& path : config.checkpoint().accept_changed()) {
    if (is_known(defaults, path)) continue;
    const std::string near = nearest_word(path, known);
    problems.push_back(fmt::format(
        "checkpoint.accept_changed: '{}' is no setting that checkpoints are compared in{}; name one such as "
        "model.norm_eps or data.tokenizer.model",
        path, near.empty() ? "" : fmt::format(" (did you mean '{}'?)", near)));
  }
  return problems;
}

}  // namespace spanwise
