#pragma once
// Checks textproto against a message type and finds every problem, where TextFormat stops at the first and
// does not say what was meant. Text without problems goes to TextFormat.

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <string>
#include <string_view>
#include <vector>

#include "launcher/words.h"

namespace spanwise {

struct TextProblem {
  int line, column;  // from 1
  std::string message;
  /// It names a field that the schema has reserved, which configs of an older form had.
  bool of_older_form = false;
};

/// Problems of `text` as the fields of a `message`. `path` is the message's place in the config ("model", ""
/// at the top) and `root` the top message, whose other groups suggestions may come from.
std::vector<TextProblem> check_message_text(const std::string& text,
                                            const google::protobuf::Descriptor& message,
                                            const std::string& path,
                                            const google::protobuf::Descriptor& root);

/// Problems of `text` as exactly one value of `field`, whose full path is `path`.
std::vector<TextProblem> check_value_text(const std::string& text,
                                          const google::protobuf::FieldDescriptor& field,
                                          const std::string& path, const google::protobuf::Descriptor& root);

/// Merges `text` into `message`, whose place is `path`; returns the problems, and merges nothing if there are
/// any.
std::vector<TextProblem> merge_text(const std::string& text, const std::string& path,
                                    const google::protobuf::Descriptor& root,
                                    google::protobuf::Message& message);

/// "model has no field 'num_layer'; did you mean 'num_layers'?": the nearest field of the message by edit
/// distance, else fields of this very name in other groups, else the list of what there is. Of what several
/// choices have it names the choice.
std::string unknown_field(const google::protobuf::Descriptor& message, const std::string& path,
                          const std::string& name, const google::protobuf::Descriptor& root);

}  // namespace spanwise
