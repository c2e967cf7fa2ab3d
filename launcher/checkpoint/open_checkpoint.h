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
#include "parallel/comm.h"

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

 private:
  std::string problem_of(const Manifest::File& entry) const;

  OpenDirectory directory_;
  Manifest manifest_;
  std::map<std::string, std::optional<File>> files_;
};

/// The newest checkpoint of `root`, the same on every rank: rank 0 chooses. Where it is pruned before every
/// rank has it open, the newest is chosen again. UserError on rank 0 if there is none. Collective.
OpenCheckpoint open_newest_checkpoint(const std::filesystem::path& root, Comm& world);

/// Its manifest, checked as OpenCheckpoint does.
Manifest read_manifest(const std::filesystem::path& directory);
/// Verifies every file; returns the manifest.
Manifest verify_checkpoint(const std::filesystem::path& directory);

}  // namespace spanwise
