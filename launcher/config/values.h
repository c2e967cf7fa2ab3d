#pragma once
// A config as a flat list of paths and values: what ranks and starts compare, and checkpoints keep.

#include <google/protobuf/message.h>

#include <string>
#include <string_view>
#include <vector>

namespace spanwise {

struct ConfigValue {
  std::string path;   ///< "model.layer.L.gated_delta_net.num_heads", "data.train[0].path"
  std::string field;  ///< of the schema: "model.layer.gated_delta_net.num_heads", "data.train.path"
  std::string text;   ///< as in a textproto
};

/// Every single field of `message`, whose place in the config is `path` ("" at the top), set or not. Of a
/// choice comes which it is, under the choice's name ("model.layer.L.mixer" is gated_delta_net, or none), and
/// then the fields of what is chosen. Of a list comes the number of its entries, "data.train's number of
/// entries"; entries of model.layer are named by their letters.
std::vector<ConfigValue> config_values(const google::protobuf::Message& message,
                                       const std::string& path = "");

/// A field's value as in a textproto: that of entry `index` of a list.
std::string value_text(const google::protobuf::Message& message,
                       const google::protobuf::FieldDescriptor& field, int index = -1);

}  // namespace spanwise
