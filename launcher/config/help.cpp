#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <sstream>

#include "core/check.h"
#include "launcher/config/config.h"
#include "launcher/config/layer_list.h"
#include "launcher/config/text.h"

namespace spanwise {

// The schema with its comments, embedded by launcher/CMakeLists.txt: the compiled descriptors have lost them.
extern const unsigned char kRunConfigSchema[];
extern const std::size_t kRunConfigSchema_bytes;

namespace {

using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::OneofDescriptor;

constexpr size_t kWidth = 100;
constexpr const char* kAnyLetter = "LETTER";

std::unique_ptr<DescriptorPool> load_schema() {
  google::protobuf::FileDescriptorSet files;
  SPANWISE_CHECK(files.ParseFromArray(kRunConfigSchema, int(kRunConfigSchema_bytes)),
                 "embedded schema is damaged");
  auto pool = std::make_unique<DescriptorPool>();
  for (const auto& file : files.file()) SPANWISE_CHECK(pool->BuildFile(file), "embedded schema is damaged");
  return pool;
}

/// The comment above a field, message or enum value.
template <class T>
std::string comment(const T& descriptor) {
  google::protobuf::SourceLocation location;
  return descriptor.GetSourceLocation(&location) ? location.leading_comments : "";
}

std::string wrap(const std::string& head, std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text.empty() ? head + "\n" : wrap_words(head, text, head.size(), kWidth);
}

std::string type_name(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      return "text";
    case FieldDescriptor::CPPTYPE_BOOL:
      return "true or false";
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return "number";
    case FieldDescriptor::CPPTYPE_ENUM:
      return "choice";
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return field.is_repeated() ? "list of groups" : "group";
    default:
      return "integer";
  }
}

std::string default_text(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      return "\"" + field.default_value_string() + "\"";
    case FieldDescriptor::CPPTYPE_BOOL:
      return field.default_value_bool() ? "true" : "false";
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return fmt::format("{}", field.default_value_double());
    case FieldDescriptor::CPPTYPE_ENUM:
      return field.default_value_enum()->name();
    case FieldDescriptor::CPPTYPE_UINT64:
      return fmt::format("{}", field.default_value_uint64());
    default:
      return fmt::format("{}", field.default_value_int64());
  }
}

void help_values(const EnumDescriptor& type, std::string& text) {
  size_t longest = 0;
  for (int i = 0; i < type.value_count(); ++i) longest = std::max(longest, type.value(i)->name().size());
  for (int i = 0; i < type.value_count(); ++i) {
    text += wrap(fmt::format("      {:<{}}  ", type.value(i)->name(), longest), comment(*type.value(i)));
  }
}

void help_field(const FieldDescriptor& field, const std::string& path, std::string& text);

/// "  mixer: one of attention, gated_delta_net, …"; each has its own heading below.
void help_choice(const OneofDescriptor& choice, std::string& text) {
  std::string names;
  for (int i = 0; i < choice.field_count(); ++i) names += (i == 0 ? "" : ", ") + choice.field(i)->name();
  text += wrap_words("  ", fmt::format("{}: none or one of {}", choice.name(), names), 6, kWidth);
  text += wrap("      ", comment(choice));
}

void help_fields(const Descriptor& message, const std::string& path, std::string& text) {
  const auto path_of = [&](const FieldDescriptor& field) {
    return path.empty() ? field.name() : path + "." + field.name();
  };
  // Single fields first, so that each stands under the heading of its own group.
  for (int i = 0; i < message.field_count(); ++i) {
    if (!message.field(i)->message_type()) help_field(*message.field(i), path_of(*message.field(i)), text);
  }
  for (int i = 0; i < message.real_oneof_decl_count(); ++i) help_choice(*message.oneof_decl(i), text);
  for (int i = 0; i < message.field_count(); ++i) {
    if (message.field(i)->message_type()) help_field(*message.field(i), path_of(*message.field(i)), text);
  }
}

/// Entries of model.layer are addressed by their letters.
bool is_layers(const FieldDescriptor& field) {
  return field.message_type() &&
         field.message_type()->full_name() == config::LayerConfig::descriptor()->full_name() &&
         field.is_repeated();
}

void help_field(const FieldDescriptor& field, const std::string& path, std::string& text) {
  if (field.message_type()) {
    const char* kind = is_layers(field)      ? "{ ... } (a list: one for each letter, or for each layer)"
                       : field.is_repeated() ? "{ ... } (a list: any number of these)"
                                             : "{ ... }";
    text += fmt::format("\n{} {}\n", path, kind);
    text += wrap("  ", comment(field));
    text += "\n";
    return help_fields(*field.message_type(), is_layers(field) ? path + "." + kAnyLetter : path, text);
  }
  text += fmt::format("  {}: {}, default {}\n", path, type_name(field), default_text(field));
  text += wrap("      ", comment(field));
  if (field.enum_type()) help_values(*field.enum_type(), text);
}

/// The field that `path` names; the letter of a layer may be left out.
const FieldDescriptor& find_field(const Descriptor& root, std::string_view path) {
  const Descriptor* message = &root;
  const FieldDescriptor* field = nullptr;
  std::string group;
  std::istringstream names{std::string(path)};
  for (std::string name; std::getline(names, name, '.');) {
    if (!message) fail_user("config help {}: {} is a single value and has no fields of its own", path, group);
    if (field && is_layers(*field) && (is_letter(name) || name == kAnyLetter)) {
      group += "." + name;
      continue;
    }
    field = message->FindFieldByName(name);
    if (!field) fail_user("config help {}: {}", path, unknown_field(*message, group, name, root));
    message = field->message_type();
    group += (group.empty() ? "" : ".") + name;
  }
  return *field;
}

}  // namespace

std::string config_help(std::string_view path) {
  const auto pool = load_schema();
  const Descriptor* root = pool->FindMessageTypeByName(RunConfig::descriptor()->full_name());
  SPANWISE_CHECK(root, "embedded schema has no {}", RunConfig::descriptor()->full_name());
  std::string text;
  if (path.empty()) {
    help_fields(*root, "", text);
  } else {
    help_field(find_field(*root, path), std::string(path), text);
  }
  return text.substr(text.find_first_not_of('\n'));
}

}  // namespace spanwise
