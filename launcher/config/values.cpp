#include "launcher/config/values.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/text_format.h>
#include <spdlog/fmt/fmt.h>

#include "launcher/config/layer_list.h"

namespace spanwise {

namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::OneofDescriptor;

class Values {
 public:
  std::vector<ConfigValue> take() { return std::move(values_); }

  /// `path` and `field` end with a dot, or are empty.
  void add(const Message& message, const std::string& path, const std::string& field) {
    const auto& reflection = *message.GetReflection();
    const auto& type = *message.GetDescriptor();
    for (int i = 0; i < type.field_count(); ++i) {
      const FieldDescriptor& member = *type.field(i);
      const std::string at = path + member.name(), in_schema = field + member.name();
      if (member.is_repeated()) {
        add_list(message, member, at, in_schema);
      } else if (const OneofDescriptor* choice = member.real_containing_oneof()) {
        if (choice->field(0) == &member) add_choice(message, *choice, path, field);
      } else if (member.message_type()) {
        add(reflection.GetMessage(message, &member), at + ".", in_schema + ".");
      } else {
        values_.push_back({at, in_schema, value_text(message, member)});
      }
    }
  }

 private:
  void add_choice(const Message& message, const OneofDescriptor& choice, const std::string& path,
                  const std::string& field) {
    const FieldDescriptor* chosen = message.GetReflection()->GetOneofFieldDescriptor(message, &choice);
    values_.push_back({path + choice.name(), field + choice.name(), chosen ? chosen->name() : "none"});
    if (!chosen) return;
    add(message.GetReflection()->GetMessage(message, chosen), path + chosen->name() + ".",
        field + chosen->name() + ".");
  }

  void add_list(const Message& message, const FieldDescriptor& list, const std::string& path,
                const std::string& field) {
    const auto& reflection = *message.GetReflection();
    const int size = reflection.FieldSize(message, &list);
    values_.push_back({path + "'s number of entries", field, std::to_string(size)});
    for (int entry = 0; entry < size; ++entry) {
      if (!list.message_type()) {
        values_.push_back({fmt::format("{}[{}]", path, entry), field, value_text(message, list, entry)});
        continue;
      }
      const Message& group = reflection.GetRepeatedMessage(message, &list, entry);
      const auto* layer = dynamic_cast<const config::LayerConfig*>(&group);
      add(group, (layer ? layer_path(*layer, entry) : fmt::format("{}[{}]", path, entry)) + ".", field + ".");
    }
  }

  std::vector<ConfigValue> values_;
};

}  // namespace

std::vector<ConfigValue> config_values(const Message& message, const std::string& path) {
  Values values;
  const std::string at = path.empty() ? "" : path + ".";
  values.add(message, at, at);
  return values.take();
}

std::string value_text(const Message& message, const FieldDescriptor& field, int index) {
  static const google::protobuf::TextFormat::Printer printer;
  std::string text;
  printer.PrintFieldValueToString(message, &field, index, &text);
  return text;
}

}  // namespace spanwise
