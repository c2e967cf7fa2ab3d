#include "launcher/checkpoint/manifest_file.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include <set>
#include <string>

#include "core/check.h"
#include "core/crc32c.h"
#include "core/file_io.h"
#include "launcher/checkpoint/checkpoint_dir.h"

namespace spanwise {
namespace {

std::string checksum_line(std::string_view text) {
  return fmt::format("# crc32c: {:08x}\n", crc32c(text.data(), text.size()));
}

class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {
    if (text.empty()) text = fmt::format("line {} column {}: {}", line + 1, column + 1, message);
  }
  std::string text;
};

// A name with directories in it would have another directory's files verified in place of this one's.
void check_file_names(const std::filesystem::path& path, const Manifest& manifest) {
  std::set<std::string_view> names;
  for (const Manifest::File& file : manifest.files()) {
    if (is_checkpoint_file_name(file.name()) && names.insert(file.name()).second) continue;
    fail_user(
        "{} lists a file '{}', which is not a plain name of its directory, or is listed twice; bring back "
        "the "
        "manifest that was written there",
        path.string(), file.name());
  }
}

}  // namespace

bool is_checkpoint_file_name(std::string_view name) {
  return !name.empty() && name.find('/') == name.npos && name.find('\0') == name.npos &&
         !name.starts_with('.') && name != kManifestName;
}

void write_manifest_file(const std::filesystem::path& path, const Manifest& manifest) {
  std::string text;
  SPANWISE_CHECK(google::protobuf::TextFormat::PrintToString(manifest, &text), "cannot print the manifest");
  write_file(path, text + checksum_line(text));
}

Manifest read_manifest_file(const File& file) {
  return parse_manifest(read_file(file), file.path());
}

Manifest parse_manifest(const std::string& content, const std::filesystem::path& path) {
  const size_t line_bytes = checksum_line("").size();
  const size_t text_bytes = content.size() > line_bytes ? content.size() - line_bytes : 0;
  const std::string text = content.substr(0, text_bytes);
  if (content.substr(text_bytes) != checksum_line(text)) {
    fail_user(
        "{} is damaged or was edited: its last line is not its checksum; bring back a copy, or move the "
        "directory away to resume from the checkpoint before it",
        path.string());
  }
  Manifest manifest;
  FirstError error;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  const bool parsed = parser.ParseFromString(text, &manifest);
  const bool known = parsed && manifest.format_version() >= kOldestCheckpointFormatVersion &&
                     manifest.format_version() <= kCheckpointFormatVersion;
  if (!known) {
    fail_user(
        "{} was written by another version of spanwise ({}, this build reads formats {} to {}); use that "
        "version",
        path.string(), parsed ? fmt::format("format {}", manifest.format_version()) : error.text,
        kOldestCheckpointFormatVersion, kCheckpointFormatVersion);
  }
  check_file_names(path, manifest);
  return manifest;
}

}  // namespace spanwise
