#pragma once
// One training at a time in a directory.

#include <sys/types.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/check.h"
#include "launcher/config/config.h"

namespace spanwise {

/// Another training holds the directory.
class DirectoryHeld : public UserError {
 public:
  using UserError::UserError;
};

/// Holds `directory` through a lock on its file run.lock, which names the holder: host, process, job of a
/// scheduler, and since when. The lock is flock(2)'s and so the kernel's: it goes when the process ends,
/// however that happens, and what a killed run leaves is a file that the next start takes over. Linux hands
/// it to the servers of network file systems as well (NFS since 2.6.12; Lustre mounted with `flock`), so that
/// machines see each other's. Where a file system has no locks that is warned of, and nothing is held.
class DirectoryLock {
 public:
  /// Creates the directory where missing. DirectoryHeld naming the holder if another process has the lock;
  /// `field` is what the user may set otherwise ("run.dir").
  DirectoryLock(std::filesystem::path directory, const std::string& field);
  /// Removes the file, and the directories that the constructor made if nothing else is in them.
  ~DirectoryLock();
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

  /// False once the directory or the file was moved, removed or replaced: others may take it then.
  bool in_place() const;
  const std::filesystem::path& directory() const { return directory_; }

 private:
  void take(const std::string& field);
  void remove_made_directories();

  std::filesystem::path directory_, file_;
  std::vector<std::filesystem::path> made_;  ///< outermost first
  int fd_ = -1;
};

/// What a training holds: its run.dir, and the directory of its checkpoints, which another run may name too.
class RunLocks {
 public:
  explicit RunLocks(const RunConfig& config);
  bool in_place() const;
  /// Takes again what is not in place, and holds on to what is. DirectoryHeld and UserError as the
  /// constructor; it may be called again then.
  void reopen(const RunConfig& config);

 private:
  std::unique_ptr<DirectoryLock> run_, checkpoints_;
  bool one_directory_ = false;  ///< then the second has no lock
};

}  // namespace spanwise
