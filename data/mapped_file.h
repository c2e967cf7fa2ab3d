#pragma once
// A whole file, mapped read-only.

#include <cstddef>
#include <span>
#include <string>

namespace spanwise {

class MappedFile {
 public:
  /// UserError naming the path if it is missing, not a regular file or not readable. An empty file maps to no
  /// bytes.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  MappedFile& operator=(MappedFile&&) = delete;

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace spanwise
