#pragma once
// An append-only file of records that outlives a full disk. When a write fails, the file is cut back to its
// last whole record before the next attempt, the records wait in memory and are written as soon as there is
// room again; each outage is warned of once. A training run is never lost because its metrics could not be
// written.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "core/file_io.h"

namespace spanwise {

class AppendLog {
 public:
  /// Opens or creates the file; UserError if it cannot.
  explicit AppendLog(const std::filesystem::path& path);
  /// Writes the record through to the operating system, with those that wait.
  void append(std::string_view record);
  /// Makes what was written durable.
  void sync();

 private:
  File file_;
  uint64_t whole_bytes_;  ///< Length of the file up to its last whole record.
  std::string waiting_;
  bool failing_ = false;
};

}  // namespace spanwise
