#include <google/protobuf/descriptor.h>
#include <google/protobuf/text_format.h>

#include <set>

#include "core/check.h"
#include "launcher/config/config.h"
#include "launcher/config/layer_list.h"

namespace spanwise {

namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

void set_default(Message& message, const FieldDescriptor& field) {
  const auto& reflection = *message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      return reflection.SetString(&message, &field, field.default_value_string());
    case FieldDescriptor::CPPTYPE_ENUM:
      return reflection.SetEnum(&message, &field, field.default_value_enum());
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.SetBool(&message, &field, field.default_value_bool());
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return reflection.SetDouble(&message, &field, field.default_value_double());
    case FieldDescriptor::CPPTYPE_INT64:
      return reflection.SetInt64(&message, &field, field.default_value_int64());
    case FieldDescriptor::CPPTYPE_UINT64:
      return reflection.SetUInt64(&message, &field, field.default_value_uint64());
    default:
      SPANWISE_FAIL("{}: the schema uses a type that config code does not know", field.full_name());
  }
}

/// Sets every unset field of `message`, whose place is `path`, to its default, save those in `skip`. Of a
/// choice only what is chosen has fields, and a layer of a list has no letter.
void write_defaults(Message& message, const std::string& path, const std::set<std::string>& skip) {
  const auto& reflection = *message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *message.GetDescriptor()->field(i);
    const std::string field_path = path + field.name();
    if (field.is_repeated() && !field.message_type()) continue;
    if (field.is_repeated()) {
      for (int entry = 0; entry < reflection.FieldSize(message, &field); ++entry) {
        Message& group = *reflection.MutableRepeatedMessage(&message, &field, entry);
        const auto* layer = dynamic_cast<const config::LayerConfig*>(&group);
        write_defaults(group, (layer ? layer_path(*layer, entry) : field_path) + ".", skip);
      }
    } else if (skip.count(field_path)) {
      continue;
    } else if (field.real_containing_oneof() && !reflection.HasField(message, &field)) {
      continue;
    } else if (field.message_type()) {
      write_defaults(*reflection.MutableMessage(&message, &field), field_path + ".", skip);
    } else if (!reflection.HasField(message, &field) &&
               field.containing_type() != config::LayerConfig::descriptor()) {
      set_default(message, field);
    }
  }
}

}  // namespace

std::string print_config(const RunConfig& config) {
  std::set<std::string> skip;
  for (const UnusedField& field : unused_fields(config)) skip.insert(field.path);
  RunConfig whole = config;
  *whole.mutable_model() = with_used_layers(config.model());
  write_defaults(whole, "", skip);
  google::protobuf::TextFormat::Printer printer;
  printer.SetUseUtf8StringEscaping(true);
  std::string text;
  printer.PrintToString(whole, &text);
  return text;
}

}  // namespace spanwise
