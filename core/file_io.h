#pragma once
// Files whose every failure is a UserError naming the file, the reason and the way out (a full disk says so),
// and the few steps that make a write survive a crash: write all, sync the file, rename, sync the directory.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace spanwise {

// A named pipe or a socket in place of a file is refused when it is opened, and so is a device that is to be
// read: nothing waits for a writer that may never come. A device may be written to.

enum class FileMode {
  kRead,
  kCreate,     ///< For writing and reading back; an existing file is emptied. A symbolic link is refused.
  kCreateNew,  ///< As kCreate, but whatever stands under the name is refused: temporary names can be planted.
  kAppend,     ///< Every write goes to the end; the file is created if missing.
};

/// An open file. Offsets are in bytes. Moves, does not copy; the destructor closes.
class File {
 public:
  File(std::filesystem::path path, FileMode mode);
  ~File();
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;

  /// Writes every byte at the file position (kAppend: at the end), whatever the kernel takes per call.
  void write_all(const void* data, size_t bytes);
  void write_all(std::string_view text) { write_all(text.data(), text.size()); }
  void write_at(uint64_t offset, const void* data, size_t bytes);
  /// Fills `data`; a file that ends before that is an error.
  void read_at(uint64_t offset, void* data, size_t bytes) const;
  uint64_t size() const;
  void truncate(uint64_t bytes);
  /// Returns once the content is on stable storage.
  void sync();
  /// The same open file again; offsets of write_all are shared.
  File duplicate() const;
  const std::filesystem::path& path() const { return path_; }

 private:
  friend class OpenDirectory;
  File(std::filesystem::path path, int fd) : path_(std::move(path)), fd_(fd) {}

  std::filesystem::path path_;
  int fd_ = -1;
};

/// A directory held open: its files can be opened after it was renamed, and until they are removed. Does not
/// copy.
class OpenDirectory {
 public:
  explicit OpenDirectory(std::filesystem::path path);
  ~OpenDirectory();
  OpenDirectory(OpenDirectory&& other) noexcept;
  OpenDirectory& operator=(OpenDirectory&& other) noexcept;

  /// The file `name` for reading; nothing if there is none. Other failures as File's.
  std::optional<File> open(const std::string& name) const;
  /// False once the path leads elsewhere or nowhere.
  bool in_place() const;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

/// The whole content of a file.
std::string read_file(const File& file);
std::string read_file(const std::filesystem::path& path);
/// Creates or empties `path` (kCreate), writes `content` and syncs it.
void write_file(const std::filesystem::path& path, std::string_view content);
/// As write_file, through a temporary file beside it: a reader, or a crash at any instant, sees the old or
/// the new content, never a part. What stands under the temporary's name is removed, never written through.
void replace_file(const std::filesystem::path& path, std::string_view content);

/// Makes entries created, renamed or removed in `directory` durable.
void sync_directory(const std::filesystem::path& directory);
/// Renames within one file system, replacing a file `to`. Durable after sync_directory of both parents.
void rename_path(const std::filesystem::path& from, const std::filesystem::path& to);
/// Creates `directory` and its parents where missing.
void make_directories(const std::filesystem::path& directory);
/// Creates `directory`, whose parent exists; UserError if anything, a link too, stands under its name.
void make_new_directory(const std::filesystem::path& directory);

struct FileDigest {
  uint64_t bytes = 0;
  uint32_t crc32c = 0;
};
/// Length and CRC-32C of a file, read in blocks.
FileDigest digest_file(const File& file);
FileDigest digest_file(const std::filesystem::path& path);

}  // namespace spanwise
