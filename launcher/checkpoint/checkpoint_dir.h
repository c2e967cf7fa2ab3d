#pragma once
// Checkpoint directories: root/step_00000100/ holds files and manifest.textproto. What is inside the files is
// the trainer's affair; this file sees to it that a directory of that name is whole, whenever the process or
// machine stops.
//
//   CheckpointWriter writer(root, 100);              // root/.tmp-step_00000100-<pid>/
//   write_safetensors(writer.path("model.safetensors"), ...);
//   writer.commit(manifest);                         // sync, checksum, manifest last, rename, sync
//
// The manifest carries length and CRC-32C of every file, and its own last line carries the CRC-32C of the
// lines before it: a changed byte in any file is found, and the file is named. One writer at a time works in
// a root; readers may come at any time.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/file_io.h"
#include "launcher/checkpoint/manifest.pb.h"

namespace spanwise {

inline constexpr std::string_view kManifestName = "manifest.textproto";
/// What is written; every version from the oldest on is read.
inline constexpr uint32_t kCheckpointFormatVersion = 3, kOldestCheckpointFormatVersion = 1;

class CheckpointWriter {
 public:
  /// Makes the temporary directory, after removing those that dead runs left. UserError if the root is not
  /// writable or its file system has less than `needed_bytes` free.
  CheckpointWriter(std::filesystem::path root, int64_t step, uint64_t needed_bytes = 0);
  /// Removes the temporary directory unless it was committed.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  /// Where to write file `name` (no directories in it).
  std::filesystem::path path(std::string_view name) const;
  /// The temporary directory, for other ranks on the same file system.
  const std::filesystem::path& directory() const { return temporary_; }
  /// What was written to file `name` and is synced: commit does not read it again.
  void add(std::string_view name, const FileDigest& digest);
  /// Completes the checkpoint and returns its directory; `manifest.step`, `files` and `format_version` are
  /// filled in here. Files that were not added are read and summed. A checkpoint of the same step that is
  /// already there is replaced whole. On an error (a full disk) everything that was there before stays as it
  /// was.
  std::filesystem::path commit(Manifest manifest);

 private:
  void list_files(Manifest& manifest) const;

  std::filesystem::path root_, temporary_;
  int64_t step_;
  std::map<std::string, FileDigest, std::less<>> added_;
  bool committed_ = false;
};

/// What interrupted processes may have left in `root`: temporary names go, and a checkpoint that was moved
/// aside comes back if its successor did not arrive, before one chooses the newest. For the one writer.
void tidy_checkpoints(const std::filesystem::path& root);

struct CheckpointEntry {
  int64_t step = 0;
  std::filesystem::path directory;
};

/// root/step_00000100 (more digits where needed).
std::filesystem::path checkpoint_path(const std::filesystem::path& root, int64_t step);

/// Complete checkpoints by rising step. Temporary directories and those without a manifest do not count; a
/// missing root has none.
std::vector<CheckpointEntry> list_checkpoints(const std::filesystem::path& root);
/// The directory of the highest step. UserError naming a directory of a higher one that has lost its
/// manifest.
std::optional<std::filesystem::path> newest_checkpoint(const std::filesystem::path& root);

/// The step in the name of a checkpoint's directory; nothing for other names.
std::optional<int64_t> step_of_name(std::string_view name);

/// Removes all but the newest `keep` checkpoints (0 keeps all), never `just_written`. What cannot be listed
/// or removed is a warning, not an error: the checkpoint just written is there, and training goes on.
void prune_checkpoints(const std::filesystem::path& root, size_t keep,
                       const std::filesystem::path& just_written = {});

}  // namespace spanwise
