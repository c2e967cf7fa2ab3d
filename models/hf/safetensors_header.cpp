#include "models/hf/safetensors_header.h"

#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "core/check.h"
#include "core/json_quote.h"

namespace spanwise {
namespace {

using google::protobuf::ListValue;
using google::protobuf::Struct;
using google::protobuf::Value;

// JSON numbers arrive as doubles, exact up to here (8 PiB as an offset).
constexpr double kMaxExact = 9007199254740992.0;

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t size : shape) {
    if (!text.empty()) text += ',';
    text += std::to_string(size);
  }
  return text;
}

// The elements of a JSON list of whole numbers >= 0; empty if it is anything else.
std::optional<std::vector<int64_t>> whole_numbers(const Struct& entry, const std::string& key) {
  const auto field = entry.fields().find(key);
  if (field == entry.fields().end() || !field->second.has_list_value()) return std::nullopt;
  std::vector<int64_t> numbers;
  for (const Value& value : field->second.list_value().values()) {
    const double number = value.number_value();
    if (value.kind_case() != Value::kNumberValue || number < 0 || number > kMaxExact ||
        number != std::floor(number)) {
      return std::nullopt;
    }
    numbers.push_back(static_cast<int64_t>(number));
  }
  return numbers;
}

SafetensorsInfo parse_tensor(const std::filesystem::path& path, const std::string& name, const Value& value) {
  const Struct& entry = value.struct_value();
  const auto dtype = entry.fields().find("dtype");
  const auto shape = whole_numbers(entry, "shape");
  const auto offsets = whole_numbers(entry, "data_offsets");
  if (dtype == entry.fields().end() || !shape || !offsets || offsets->size() != 2) {
    fail_safetensors(path, fmt::format("tensor '{}' needs a dtype, a shape and two data_offsets", name));
  }
  SafetensorsInfo tensor{.name = name, .dtype = dtype->second.string_value(), .shape = *shape};
  if (safetensors_dtype_bytes(tensor.dtype) == 0) {
    fail_user(
        "{}: tensor '{}' has dtype '{}', which is not supported (whole-byte safetensors dtypes are); "
        "convert it first",
        path.string(), name, tensor.dtype);
  }
  const auto bytes = safetensors_tensor_bytes(tensor.dtype, tensor.shape);
  const int64_t begin = (*offsets)[0], end = (*offsets)[1];
  if (begin > end || !bytes || static_cast<uint64_t>(end - begin) != *bytes) {
    fail_safetensors(
        path, fmt::format("tensor '{}' of {} with shape [{}] does not fit its data_offsets {} to {}", name,
                          tensor.dtype, shape_text(tensor.shape), begin, end));
  }
  tensor.offset = begin;
  tensor.bytes = *bytes;
  return tensor;
}

void check_layout(const std::filesystem::path& path, const std::vector<SafetensorsInfo>& tensors,
                  uint64_t data_bytes) {
  uint64_t end = 0;
  for (const SafetensorsInfo& tensor : tensors) {
    if (tensor.offset != end) {
      fail_safetensors(path, fmt::format("tensor '{}' starts at byte {} of the data where byte {} is due, {}",
                                         tensor.name, tensor.offset, end,
                                         tensor.offset > end ? "leaving a hole" : "overlapping another"));
    }
    end += tensor.bytes;
  }
  if (end != data_bytes) {
    fail_safetensors(path,
                     fmt::format("its tensors need {} bytes of data, the file has {} ({})", end, data_bytes,
                                 end > data_bytes ? "it is cut short" : "something follows the last tensor"));
  }
}

}  // namespace

void fail_safetensors(const std::filesystem::path& path, const std::string& problem) {
  fail_user("{} is not a sound safetensors file: {}; copy, download or write it again", path.string(),
            problem);
}

std::optional<uint64_t> safetensors_tensor_bytes(std::string_view dtype, const std::vector<int64_t>& shape) {
  uint64_t bytes = safetensors_dtype_bytes(dtype);
  if (bytes == 0) return std::nullopt;
  for (const int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(bytes, static_cast<uint64_t>(size), &bytes)) return std::nullopt;
  }
  return bytes;
}

std::string format_safetensors_header(const std::vector<SafetensorsInfo>& tensors,
                                      const SafetensorsMetadata& metadata) {
  std::string json = "{";
  if (!metadata.empty()) {
    json += json_quote(kSafetensorsMetadataKey) + ":{";
    for (const auto& [key, value] : metadata) json += json_quote(key) + ":" + json_quote(value) + ",";
    json.back() = '}';
    json += ',';
  }
  for (const SafetensorsInfo& tensor : tensors) {
    json +=
        fmt::format(R"({}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}},)", json_quote(tensor.name),
                    tensor.dtype, shape_text(tensor.shape), tensor.offset, tensor.offset + tensor.bytes);
  }
  if (json.back() == ',') json.pop_back();
  json += '}';
  json.append((8 - json.size() % 8) % 8, ' ');
  return json;
}

std::vector<SafetensorsInfo> parse_safetensors_header(const std::filesystem::path& path,
                                                      const std::string& header, uint64_t data_bytes,
                                                      SafetensorsMetadata& metadata) {
  Struct json;
  if (header.empty() || header.front() != '{') fail_safetensors(path, "its header does not start with '{'");
  // Repeated names, at any depth, are errors of this parser.
  const auto status = google::protobuf::util::JsonStringToMessage(header, &json);
  if (!status.ok()) {
    const std::string reason(status.message());
    fail_safetensors(path, "its header is not valid JSON (" + reason.substr(0, reason.find('\n')) + ")");
  }
  std::vector<SafetensorsInfo> tensors;
  for (const auto& [name, value] : json.fields()) {
    if (name != kSafetensorsMetadataKey) {
      tensors.push_back(parse_tensor(path, name, value));
      continue;
    }
    if (!value.has_struct_value()) fail_safetensors(path, "its __metadata__ is not an object");
    for (const auto& [key, text] : value.struct_value().fields()) {
      if (text.kind_case() != Value::kStringValue) {
        fail_safetensors(path, fmt::format("metadata '{}' is not a string", key));
      }
      metadata[key] = text.string_value();
    }
  }
  // An empty tensor shares its offset with the next one: its end puts it first, its name makes the order
  // certain.
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return std::tie(a.offset, a.bytes, a.name) < std::tie(b.offset, b.bytes, b.name);
  });
  check_layout(path, tensors, data_bytes);
  return tensors;
}

}  // namespace spanwise
