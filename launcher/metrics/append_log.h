#pragma once
// An append-only file of records that outlives a full disk, and its own path. When a write or fsync fails,
// the file is cut back to its last sound record before the next attempt, the records wait in memory and are
// written as soon as there is room again; each outage is warned of once. What fsync has not confirmed is kept
// in memory for that, since a system that says "no space" there may have dropped it. A file that was moved,
// removed or replaced is made again with all its records. A training run is never lost because its metrics
// could not be written.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "core/check.h"
#include "core/file_io.h"

namespace spanwise {

class AppendLog {
 public:
  /// Opens or creates the file; UserError if it cannot.
  explicit AppendLog(const std::filesystem::path& path);
  ~AppendLog();
  AppendLog(const AppendLog&) = delete;
  AppendLog& operator=(const AppendLog&) = delete;
  /// Writes the record through to the operating system, with those that wait.
  void append(std::string_view record);
  /// Makes what was written durable, if the disk takes it.
  void sync();

 private:
  /// Whether the path still leads to the open file.
  bool in_place() const;
  void open_handle();
  void make_again();
  void warn(const UserError& error);

  File file_;
  int handle_ = -1;        ///< of the same file, to compare with
  uint64_t whole_bytes_;   ///< length of the file up to its last whole record
  uint64_t synced_bytes_;  ///< of these, confirmed by fsync
  std::string waiting_;    ///< records that are not in the file
  std::string unsynced_;   ///< records behind synced_bytes_, waiting ones included
  bool failing_ = false;
};

}  // namespace spanwise
