#pragma once
// manifest.textproto as text: the message, then the line "# crc32c: 0a1b2c3d" over everything before it, so
// that the file people can read also tells when it was changed.

#include <filesystem>

#include "launcher/checkpoint/manifest.pb.h"

namespace spanwise {

/// Writes and syncs the file.
void write_manifest_file(const std::filesystem::path& path, const Manifest& manifest);

/// UserError if the file was changed, is cut short, or is of another format version.
Manifest read_manifest_file(const std::filesystem::path& path);

}  // namespace spanwise
