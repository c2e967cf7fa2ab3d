#pragma once
// The bytes of an input one after another: a file, what a .gz or .zst file unpacks to, or standard input.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace spanwise {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  /// Up to `size` bytes; 0 at the end. UserError naming the file if it cannot be read, or if what it packs is
  /// damaged or cut short.
  virtual size_t read(char* data, size_t size) = 0;
  /// Bytes of the file itself, packed as they are, that have been read.
  virtual int64_t bytes_read() const = 0;
};

/// What standard input is called among inputs.
inline constexpr const char* kStandardInput = "-";

/// By the last extension of the path. UserError at once for a pipe or a device in place of a file.
/// Standard input that has nothing to read calls `waiting` every fifth of a second, on the thread that reads;
/// what it throws ends the read.
std::unique_ptr<ByteSource> open_source(const std::string& path, std::function<void()> waiting = {});

}  // namespace spanwise
