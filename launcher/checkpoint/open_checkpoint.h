#pragma once
// A checkpoint to read from. Every file that its manifest lists is opened at once, so that a training that
// prunes or replaces the directory meanwhile takes nothing away; verification and reading go through the same
// descriptors. The manifest alone says what belongs to a checkpoint: a file that it does not list is not
// read.

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/check.h"
#include "core/file_io.h"
#include "launcher/checkpoint/manifest.pb.h"

namespace spanwise {

/// The directory went away while it was being opened: another process pruned or moved it.
class CheckpointGone : public UserError {
 public:
  using UserError::UserError;
};

class OpenCheckpoint {
 public:
  /// UserError if the directory is no complete checkpoint, its manifest is damaged or of another version, or
  /// the step in the manifest is not the one in the directory's name (step_…; other names say nothing).
  /// CheckpointGone if it went away meanwhile.
  explicit OpenCheckpoint(const std::filesystem::path& directory);

  const std::filesystem::path& directory() const { return directory_.path(); }
  const Manifest& manifest() const { return manifest_; }
  /// Whether the manifest lists the file.
  bool lists(const std::string& name) const { return files_.count(name) > 0; }
  /// The listed file; UserError naming it where it is not listed or missing.
  File file(const std::string& name) const;
  /// Reads `names` (empty: every file) and compares lengths and checksums; one UserError for all that is
  /// damaged or missing.
  void verify(const std::vector<std::string>& names = {}) const;
  /// The same for lengths alone, without reading.
  void require_lengths(const std::vector<std::string>& names) const;
  /// The same for what was read of some files and summed meanwhile.
  void require_digests(const std::map<std::string, FileDigest>& read) const;

 private:
  std::string length_problem(const Manifest::File& entry) const;
  std::string digest_problem(const Manifest::File& entry, const FileDigest& read) const;
  /// UserError if there are any.
  void fail_if_damaged(const std::vector<std::string>& problems) const;

  OpenDirectory directory_;
  Manifest manifest_;
  std::map<std::string, std::optional<File>> files_;
};

/// The newest checkpoint of `root`. Where it is pruned before it is open, the newest is chosen again.
/// UserError if there is none.
OpenCheckpoint open_newest_checkpoint(const std::filesystem::path& root);

/// Its manifest, checked as OpenCheckpoint does.
Manifest read_manifest(const std::filesystem::path& directory);
/// Verifies every file; returns the manifest.
Manifest verify_checkpoint(const std::filesystem::path& directory);

}  // namespace spanwise
