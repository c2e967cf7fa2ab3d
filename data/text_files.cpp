#include "data/text_files.h"

#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>

#include <filesystem>
#include <utility>

#include "core/check.h"

namespace spanwise {
namespace {

namespace fs = std::filesystem;

bool is_json(const std::string& path) {
  return fs::path(path).extension() == ".jsonl";
}

bool is_blank(const std::string& text) {
  return text.find_first_not_of(" \t\r\n\f\v") == std::string::npos;
}

}  // namespace

std::string document_text(const RawDocument& document, const TextFileOptions& options) {
  if (document.kind == RawDocument::Kind::kText) return document.content;
  google::protobuf::Struct object;
  const auto status = google::protobuf::util::JsonStringToMessage(document.content, &object);
  if (!status.ok())
    fail_user("{}:{}: not a JSON object; each line of a .jsonl file is one, such as {{\"{}\": \"...\"}}",
              document.path, document.line, options.text_field);
  const auto field = object.fields().find(options.text_field);
  if (field == object.fields().end())
    fail_user("{}:{}: the record has no field \"{}\"; name the field that holds the text", document.path,
              document.line, options.text_field);
  if (!field->second.has_string_value())
    fail_user("{}:{}: the field \"{}\" is not a string; name the field that holds the text", document.path,
              document.line, options.text_field);
  return field->second.string_value();
}

DocumentReader::DocumentReader(TextFileOptions options) : options_(std::move(options)) {
  if (options_.inputs.empty()) fail_user("no input file is given; name at least one .txt or .jsonl file");
  for (const auto& path : options_.inputs) {
    if (!is_json(path) && fs::path(path).extension() != ".txt")
      fail_user("{} is neither .txt nor .jsonl; convert it or rename it", path);
    if (!fs::is_regular_file(path) || !std::ifstream(path)) fail_user("cannot read the input file {}", path);
    total_bytes_ += int64_t(fs::file_size(path));
  }
}

bool DocumentReader::open_next_file() {
  if (next_input_ == options_.inputs.size()) return false;
  path_ = options_.inputs[next_input_++];
  line_ = 0;
  file_ = std::ifstream(path_, std::ios::binary);
  if (!file_) fail_user("cannot read the input file {}", path_);
  return true;
}

/// The next line with its line break, if it has one.
bool DocumentReader::next_line(std::string& line) {
  if (!std::getline(file_, line)) {
    if (file_.bad()) fail_user("cannot read the input file {} behind line {}", path_, line_);
    return false;
  }
  if (!file_.eof()) line.push_back('\n');
  ++line_;
  bytes_read_ += int64_t(line.size());
  return true;
}

std::optional<RawDocument> DocumentReader::next_json() {
  RawDocument document{.kind = RawDocument::Kind::kJson, .content = {}, .path = path_};
  while (next_line(document.content)) {
    if (is_blank(document.content)) continue;
    document.line = line_;
    return document;
  }
  return std::nullopt;
}

std::optional<RawDocument> DocumentReader::next_text() {
  RawDocument document{.kind = RawDocument::Kind::kText, .content = {}, .path = path_, .line = line_ + 1};
  const std::string& separator = options_.document_separator;
  std::string line;
  while (next_line(line)) {
    const size_t length = line.find_last_not_of("\r\n") + 1;
    const bool is_separator = !separator.empty() && line.compare(0, length, separator) == 0;
    if (!is_separator) document.content += line;
    if (is_separator && !is_blank(document.content)) return document;
    if (is_separator) document = {.content = {}, .path = path_, .line = line_ + 1};
  }
  if (is_blank(document.content)) return std::nullopt;
  return document;
}

std::optional<RawDocument> DocumentReader::next() {
  while (true) {
    if (file_.is_open()) {
      if (auto document = is_json(path_) ? next_json() : next_text()) return document;
    }
    if (!open_next_file()) return std::nullopt;
  }
}

}  // namespace spanwise
