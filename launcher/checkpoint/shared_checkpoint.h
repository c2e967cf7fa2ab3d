#pragma once
// A checkpoint that a job reads: rank 0 has its files open, all ranks know its manifest. The others need not
// see the file system.

#include <filesystem>
#include <optional>

#include "launcher/checkpoint/open_checkpoint.h"
#include "parallel/comm.h"

namespace spanwise {

class SharedCheckpoint {
 public:
  /// Opens `directory` of rank 0 (OpenCheckpoint). Collective.
  SharedCheckpoint(const std::filesystem::path& directory, Comm& world);
  /// The newest checkpoint of rank 0's `root`. UserError there if there is none. Collective.
  static SharedCheckpoint newest(const std::filesystem::path& root, Comm& world);

  const std::filesystem::path& directory() const { return directory_; }
  const Manifest& manifest() const { return manifest_; }
  /// Rank 0's.
  const OpenCheckpoint& files() const;

 private:
  SharedCheckpoint(std::optional<OpenCheckpoint> files, Comm& world);

  std::optional<OpenCheckpoint> files_;
  std::filesystem::path directory_;
  Manifest manifest_;
};

}  // namespace spanwise
