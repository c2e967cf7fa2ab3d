#include "launcher/config/override.h"

#include <google/protobuf/descriptor.h>

#include <algorithm>

#include "core/check.h"
#include "launcher/config/layer_list.h"
#include "launcher/config/text.h"

namespace spanwise {

namespace {

using config::LayerConfig;
using config::ModelConfig;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr std::string_view kLayers = "model.layer";

/// What a sentence is about.
class Wrong {
 public:
  explicit Wrong(const std::string& text) : text_(text) {}
  bool any() const { return !sentences_.empty(); }
  std::vector<std::string> take() { return std::move(sentences_); }
  template <class... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    sentences_.push_back(
        fmt::format("--set {}: {}", text_, fmt::format(format, std::forward<Args>(args)...)));
  }
  void add(const std::vector<TextProblem>& problems) {
    for (const TextProblem& problem : problems) add("{}", problem.message);
  }

 private:
  const std::string& text_;
  std::vector<std::string> sentences_;
};

/// The definition of `letter` in model.layer; null if there is none.
LayerConfig* defined_layer(ModelConfig& model, const std::string& letter) {
  for (LayerConfig& layer : *model.mutable_layer()) {
    if (layer.letter() == letter) return &layer;
  }
  return nullptr;
}

/// The same, which begins as the letter's default, or as an empty layer.
LayerConfig& layer_to_set(ModelConfig& model, const std::string& letter) {
  if (LayerConfig* layer = defined_layer(model, letter)) return *layer;
  LayerConfig& layer = *model.add_layer();
  if (const LayerConfig* standard = default_layer(letter)) layer = *standard;
  layer.set_letter(letter);
  return layer;
}

void remove_layer(ModelConfig& model, const std::string& letter) {
  auto& layers = *model.mutable_layer();
  layers.erase(std::remove_if(layers.begin(), layers.end(),
                              [&](const LayerConfig& layer) { return layer.letter() == letter; }),
               layers.end());
}

/// "model.layer.L's mixer is gated_delta_net; --set 'model.layer.L={delta_net {...}}' replaces it".
std::string other_part(const Message& layer, const FieldDescriptor& part, const std::string& path) {
  const auto* choice = part.real_containing_oneof();
  const FieldDescriptor* chosen = layer.GetReflection()->GetOneofFieldDescriptor(layer, choice);
  const std::string way = fmt::format("--set '{}={{{} {{...}}}}'", path, part.name());
  if (!chosen) return fmt::format("{} has no {}; {} gives it one", path, choice->name(), way);
  return fmt::format("{}'s {} is {}; {} replaces it", path, choice->name(), chosen->name(), way);
}

class Override {
 public:
  Override(const std::string& text, RunConfig& config, std::set<std::string>& replaced_lists)
      : text_(text), config_(config), replaced_lists_(replaced_lists), wrong_(text) {}

  std::vector<std::string> apply() {
    const size_t equals = text_.find('=');
    if (equals == std::string::npos || equals == 0) {
      wrong_.add("an override is path.to.field=value, e.g. train.steps=100");
      return wrong_.take();
    }
    path_ = text_.substr(0, equals);
    value_ = text_.substr(equals + 1);
    if (path_.starts_with(kLayers) && path_.size() > kLayers.size() && path_[kLayers.size()] == '.') {
      set_layer();
    } else if (find(config_, "", 0)) {
      set_field();
    }
    return wrong_.take();
  }

  /// The letter that was set, if any.
  const std::string& letter() const { return letter_; }

 private:
  /// "model.layer.LETTER" or "model.layer.LETTER.path.to.field".
  void set_layer() {
    const size_t begin = kLayers.size() + 1, end = std::min(path_.find('.', begin), path_.size());
    const std::string letter = path_.substr(begin, end - begin), place = path_.substr(0, end);
    if (!is_letter(letter)) {
      const bool is_field = LayerConfig::descriptor()->FindFieldByName(letter);
      wrong_.add("a layer is named by its letter, as in {}.L{}", kLayers,
                 is_field ? path_.substr(kLayers.size()) : "");
      return;
    }
    ModelConfig& model = *config_.mutable_model();
    if (lists_layers(model)) {
      wrong_.add("{} lists the layers, which have no letters; give them letters, and model.layer_pattern",
                 kLayers);
      return;
    }
    if (end == path_.size() && value_.empty()) return remove_layer(model, letter);
    if (end == path_.size()) return merge_layer(model, letter);
    if (!find_layer(model, letter)) {
      wrong_.add("{0} is not defined; --set '{0}={{...}}' defines it", place);
      return;
    }
    // Nothing is left behind where the path leads nowhere.
    ModelConfig changed = model;
    if (!find(layer_to_set(changed, letter), place, end + 1)) return;
    set_field();
    if (wrong_.any()) return;
    model.Swap(&changed);
    letter_ = letter;
  }

  void merge_layer(ModelConfig& model, const std::string& letter) {
    const FieldDescriptor& list =
        *ModelConfig::descriptor()->FindFieldByNumber(ModelConfig::kLayerFieldNumber);
    wrong_.add(check_value_text(value_, list, path_, *RunConfig::descriptor()));
    if (wrong_.any()) return;
    ModelConfig given;
    wrong_.add(merge_text("layer: " + value_, "model", *RunConfig::descriptor(), given));
    if (wrong_.any()) return;
    if (given.layer(0).has_letter() && given.layer(0).letter() != letter) {
      wrong_.add("the path says {} and the value letter: \"{}\"; leave the second out", letter,
                 given.layer(0).letter());
      return;
    }
    layer_to_set(model, letter).MergeFrom(given.layer(0));
    letter_ = letter;
  }

  /// Finds the field that path_ names from `begin` on in `message`, which stands at `group`.
  bool find(Message& message, std::string group, size_t begin) {
    message_ = &message;
    for (size_t end = 0; end < path_.size(); begin = end + 1) {
      end = std::min(path_.find('.', begin), path_.size());
      const std::string name = path_.substr(begin, end - begin);
      field_ = message_->GetDescriptor()->FindFieldByName(name);
      if (!field_) {
        wrong_.add("{}", unknown_field(*message_->GetDescriptor(), group, name, *RunConfig::descriptor()));
        return false;
      }
      const bool is_part = field_->real_containing_oneof();
      if (is_part && !message_->GetReflection()->HasField(*message_, field_)) {
        wrong_.add("{}", other_part(*message_, *field_, group));
        return false;
      }
      group = path_.substr(0, end);
      if (end == path_.size()) break;
      if (field_->is_repeated()) {
        wrong_.add("{0} is a list; add whole entries, --set '{0}={{...}}'", group);
        return false;
      }
      if (!field_->message_type()) {
        wrong_.add("{} is a single value and has no fields of its own", group);
        return false;
      }
      message_ = message_->GetReflection()->MutableMessage(message_, field_);
    }
    return true;
  }

  void set_field() {
    const bool quoted =
        value_.size() >= 2 && value_.front() == value_.back() && (value_[0] == '"' || value_[0] == '\'');
    if (value_.empty()) {
      message_->GetReflection()->ClearField(message_, field_);
      if (field_->is_repeated()) replaced_lists_.insert(path_);
    } else if (field_->cpp_type() == FieldDescriptor::CPPTYPE_STRING && !quoted) {
      set_plain_text();
    } else {
      set_value();
    }
  }

  /// The first entry that is given takes the place of the config's list; the next ones are added.
  void begin_list() {
    if (field_->is_repeated() && replaced_lists_.insert(path_).second) {
      message_->GetReflection()->ClearField(message_, field_);
    }
  }

  void set_plain_text() {
    begin_list();
    if (field_->is_repeated()) {
      message_->GetReflection()->AddString(message_, field_, value_);
    } else {
      message_->GetReflection()->SetString(message_, field_, value_);
    }
  }

  void set_value() {
    wrong_.add(check_value_text(value_, *field_, path_, *RunConfig::descriptor()));
    if (wrong_.any()) return;
    begin_list();
    const size_t dot = path_.rfind('.');
    const std::string group = dot == path_.npos ? "" : path_.substr(0, dot);
    wrong_.add(merge_text(field_->name() + ": " + value_, group, *RunConfig::descriptor(), *message_));
  }

  const std::string& text_;
  RunConfig& config_;
  std::set<std::string>& replaced_lists_;
  Wrong wrong_;
  std::string path_, value_, letter_;
  Message* message_ = nullptr;
  const FieldDescriptor* field_ = nullptr;
};

}  // namespace

std::vector<std::string> Overrides::apply(const std::string& text) {
  Override one(text, config_, replaced_lists_);
  std::vector<std::string> wrong = one.apply();
  if (!one.letter().empty()) layers_.emplace_back(one.letter(), text);
  return wrong;
}

std::vector<std::string> Overrides::unplaced_layers() const {
  const ModelConfig& model = config_.model();
  std::vector<std::string> wrong;
  if (lists_layers(model)) return wrong;
  for (const auto& [letter, text] : layers_) {
    if (model.layer_pattern().find(letter) != std::string::npos) continue;
    wrong.push_back(
        fmt::format("--set {}: model.layer_pattern \"{}\" has no {}; place it there, or leave this out", text,
                    model.layer_pattern(), letter));
  }
  return wrong;
}

}  // namespace spanwise
