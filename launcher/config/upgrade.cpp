#include "launcher/config/upgrade.h"

#include <google/protobuf/text_format.h>

#include <algorithm>

#include "configs/run_config_v1.pb.h"
#include "launcher/config/config.h"
#include "launcher/config/text.h"
#include "launcher/config/values.h"
#include "launcher/words.h"

namespace spanwise {

namespace {

namespace v1 = config::v1;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

/// Layers have the names of the former linear mixers in small letters.
std::string mixer_of(std::string linear_mixer) {
  for (char& c : linear_mixer) c = char(std::tolower(static_cast<unsigned char>(c)));
  return linear_mixer;
}

/// "model.linear.num_heads" → "model.layer.L.gated_delta_net.num_heads"; paths that are today's stay.
std::string path_now(const std::string& path, const std::string& linear_mixer) {
  constexpr std::string_view kLinear = "model.linear.", kAttention = "model.attention.";
  if (path == "model.linear_mixer") return "model.layer.L.mixer";
  if (path.starts_with(kLinear))
    return fmt::format("model.layer.L.{}.{}", mixer_of(linear_mixer), path.substr(kLinear.size()));
  if (path.starts_with(kAttention)) return "model.layer.N.attention." + path.substr(kAttention.size());
  return path;
}

/// Sets in `to` what is set in `from`, by names; returns the single fields that `to` does not have.
std::vector<std::string> copy_fields(const Message& from, Message& to) {
  std::vector<const FieldDescriptor*> set;
  from.GetReflection()->ListFields(from, &set);
  std::vector<std::string> missing;
  std::string text;
  for (const FieldDescriptor* field : set) {
    if (field->message_type()) continue;
    if (to.GetDescriptor()->FindFieldByName(field->name())) {
      text += fmt::format("{}: {}\n", field->name(), value_text(from, *field));
    } else {
      missing.push_back(field->name());
    }
  }
  SPANWISE_CHECK(google::protobuf::TextFormat::MergeFromString(text, &to), "cannot copy\n{}", text);
  return missing;
}

config::LayerConfig& add_layer(config::ModelConfig& model, const char* letter) {
  config::LayerConfig& layer = *model.add_layer();
  layer.set_letter(letter);
  layer.mutable_swiglu();
  return layer;
}

config::ModelConfig model_now(const v1::ModelConfig& then, const std::string& name) {
  config::ModelConfig now;
  copy_fields(then, now);
  if (then.has_linear() || then.has_linear_mixer()) {
    config::LayerConfig& layer = add_layer(now, "L");
    const std::string mixer = v1::ModelConfig::LinearMixer_Name(then.linear_mixer());
    const FieldDescriptor* part = layer.GetDescriptor()->FindFieldByName(mixer_of(mixer));
    SPANWISE_CHECK(part, "no layer has the mixer {}", mixer);
    const auto missing = copy_fields(then.linear(), *layer.GetReflection()->MutableMessage(&layer, part));
    if (!missing.empty())
      fail_user("{}: model.linear.{} is set and model.linear_mixer {} never took it; remove it", name,
                missing[0], mixer);
  }
  if (then.has_attention()) copy_fields(then.attention(), *add_layer(now, "N").mutable_attention());
  return now;
}

RunConfig config_now(v1::RunConfig then, const std::string& name) {
  RunConfig now;
  if (then.has_run()) now.mutable_run()->Swap(then.mutable_run());
  if (then.has_device()) now.set_device(then.device());
  if (then.has_train()) now.mutable_train()->Swap(then.mutable_train());
  if (then.has_parallel()) now.mutable_parallel()->Swap(then.mutable_parallel());
  if (then.has_model()) *now.mutable_model() = model_now(then.model(), name);
  if (then.has_data()) now.mutable_data()->Swap(then.mutable_data());
  if (then.has_optimizer()) now.mutable_optimizer()->Swap(then.mutable_optimizer());
  if (then.has_checkpoint()) now.mutable_checkpoint()->Swap(then.mutable_checkpoint());
  if (then.has_metrics()) now.mutable_metrics()->Swap(then.mutable_metrics());
  const std::string mixer = v1::ModelConfig::LinearMixer_Name(then.model().linear_mixer());
  if (now.has_checkpoint()) {
    for (std::string& path : *now.mutable_checkpoint()->mutable_accept_changed())
      path = path_now(path, mixer);
  }
  return now;
}

/// The lines of comments, and empty ones, that a text begins with.
std::string first_comments(const std::string& text) {
  size_t end = 0;
  while (end < text.size() && (text[end] == '#' || text[end] == '\n'))
    end = std::min(text.find('\n', end), text.size() - 1) + 1;
  return text.substr(0, end);
}

[[noreturn]] void fail(const std::string& name, const std::vector<TextProblem>& problems) {
  std::string lines;
  for (const TextProblem& problem : problems)
    lines += fmt::format("{}{}:{}:{}: {}", lines.empty() ? "" : "\n", name, problem.line, problem.column,
                         problem.message);
  throw UserError(lines);
}

}  // namespace

OldConfig::OldConfig(const std::filesystem::path& place)
    : UserError(fmt::format("{} is of an older form: `spanwise config upgrade {}` {}", place.string(),
                            shell_word(place.string()),
                            std::filesystem::is_directory(place)
                                ? "rewrites its config, and keeps the old one"
                                : "prints it in today's")) {}

std::string upgraded_config(const std::string& text, const std::string& name) {
  RunConfig today;
  const std::vector<TextProblem> problems = merge_text(text, "", *RunConfig::descriptor(), today);
  const bool is_old = std::any_of(problems.begin(), problems.end(),
                                  [](const TextProblem& problem) { return problem.of_older_form; });
  if (!is_old && !problems.empty()) fail(name, problems);
  if (!is_old) return text;
  v1::RunConfig then;
  const std::vector<TextProblem> wrong = merge_text(text, "", *v1::RunConfig::descriptor(), then);
  if (!wrong.empty()) fail(name, wrong);
  google::protobuf::TextFormat::Printer printer;
  printer.SetUseUtf8StringEscaping(true);
  std::string upgraded;
  printer.PrintToString(config_now(std::move(then), name), &upgraded);
  return first_comments(text) + upgraded;
}

std::map<std::string, std::string> upgraded_settings(const std::map<std::string, std::string>& settings) {
  const auto value = [&](const char* path, const std::string& fallback) {
    const auto found = settings.find(path);
    return found == settings.end() ? fallback : found->second;
  };
  const v1::ModelConfig defaults;
  const std::string mixer =
      value("model.linear_mixer", v1::ModelConfig::LinearMixer_Name(defaults.linear_mixer()));
  const std::string pattern = value("model.layer_pattern", '"' + defaults.layer_pattern() + '"');
  std::map<std::string, std::string> now;
  for (const auto& [path, text] : settings) now[path_now(path, mixer)] = text;
  for (const auto& [letter, name] : {std::pair('L', mixer_of(mixer)), {'N', std::string("attention")}}) {
    if (pattern.find(letter) == pattern.npos) continue;
    now[fmt::format("model.layer.{}.mixer", letter)] = name;
    now[fmt::format("model.layer.{}.feed_forward", letter)] = "swiglu";
  }
  return now;
}

}  // namespace spanwise
