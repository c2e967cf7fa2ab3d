#pragma once
// manifest.textproto as text: the message, then the line "# crc32c: 0a1b2c3d" over everything before it, so
// that the file people can read also tells when it was changed.

#include <filesystem>
#include <string>
#include <string_view>

#include "core/file_io.h"
#include "launcher/checkpoint/manifest.pb.h"

namespace spanwise {

/// Whether a manifest may list a file of this name: no directories, nothing hidden, not the manifest itself.
bool is_checkpoint_file_name(std::string_view name);

/// Writes and syncs the file.
void write_manifest_file(const std::filesystem::path& path, const Manifest& manifest);

/// UserError if the file was changed, is cut short, is of another format version, or names files that are not
/// plain names of one directory, each once.
Manifest read_manifest_file(const File& file);
/// The same of a manifest's content; `path` is named in errors.
Manifest parse_manifest(const std::string& content, const std::filesystem::path& path);

}  // namespace spanwise
