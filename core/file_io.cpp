#include "core/file_io.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <vector>

#include "core/check.h"
#include "core/crc32c.h"

namespace spanwise {
namespace {

constexpr size_t kBlockBytes = size_t{1} << 20;

const char* way_out(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return "free some space there or choose another directory";
    case EACCES:
    case EPERM:
    case EROFS:
      return "check its owner and permissions or choose another place";
    case ENOENT:
    case ENOTDIR:
    case EISDIR:
    case EEXIST:
      return "check the path";
    case EMFILE:
    case ENFILE:
      return "raise the limit on open files (ulimit -n)";
    default:
      return "check the file system it is on";
  }
}

[[noreturn]] void fail_io(const char* action, const std::filesystem::path& path, int error) {
  fail_user("cannot {} {}: {}; {}", action, path.string(), std::generic_category().message(error),
            way_out(error));
}

// What stands in place of a file; nullptr where it can be used.
const char* unusable_kind(mode_t mode, bool reads) {
  if (S_ISFIFO(mode)) return "a named pipe";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISDIR(mode)) return "a directory";
  if (reads && (S_ISCHR(mode) || S_ISBLK(mode))) return "a device";
  return nullptr;
}

void check_kind(int fd, const std::filesystem::path& path, const char* action, bool reads) {
  struct stat status;
  if (::fstat(fd, &status) != 0) fail_io(action, path, errno);
  if (const char* kind = unusable_kind(status.st_mode, reads)) {
    fail_user("cannot {} {}: it is {} where a file is expected; check the path", action, path.string(), kind);
  }
  // Nothing waits on a file or a device that is written; only opening had to be kept from waiting.
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0) fail_io(action, path, errno);
}

// Opens `name` in `directory` (AT_FDCWD: a path); what follows from the descriptor is checked by the caller.
int open_at(int directory, const char* name, int flags) {
  int fd;
  do fd = ::openat(directory, name, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0666);
  while (fd < 0 && errno == EINTR);
  return fd;
}

void check_kind_or_close(int fd, const std::filesystem::path& path, const char* action, bool reads) {
  try {
    check_kind(fd, path, action, reads);
  } catch (...) {
    ::close(fd);
    throw;
  }
}

int open_or_fail(const std::filesystem::path& path, FileMode mode) {
  int flags = 0;
  const bool reads = mode == FileMode::kRead;
  const char* action = reads ? "read" : "write";
  switch (mode) {
    case FileMode::kRead:
      flags |= O_RDONLY;
      break;
    case FileMode::kCreate:
      flags |= O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW;
      break;
    case FileMode::kCreateNew:
      flags |= O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW;
      break;
    case FileMode::kAppend:
      flags |= O_RDWR | O_CREAT | O_APPEND;
      break;
  }
  const int fd = open_at(AT_FDCWD, path.c_str(), flags);
  if (fd < 0 && errno == ELOOP && (flags & O_NOFOLLOW)) {
    fail_user("cannot write {}: it is a symbolic link, which is not followed; remove it", path.string());
  }
  if (fd < 0) fail_io(action, path, errno);
  check_kind_or_close(fd, path, action, reads);
  return fd;
}

}  // namespace

File::File(std::filesystem::path path, FileMode mode)
    : path_(std::move(path)), fd_(open_or_fail(path_, mode)) {}

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

File::File(File&& other) noexcept : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  return *this;
}

void File::write_all(const void* data, size_t bytes) {
  const char* p = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = ::write(fd_, p, bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail_io("write", path_, n == 0 ? ENOSPC : errno);
    p += n;
    bytes -= n;
  }
}

void File::write_at(uint64_t offset, const void* data, size_t bytes) {
  const char* p = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = ::pwrite(fd_, p, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail_io("write", path_, n == 0 ? ENOSPC : errno);
    p += n;
    offset += n;
    bytes -= n;
  }
}

void File::read_at(uint64_t offset, void* data, size_t bytes) const {
  char* p = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t n = ::pread(fd_, p, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_io("read", path_, errno);
    if (n == 0) {
      fail_user("cannot read {}: it ends at byte {}, {} bytes early; it is cut short, copy or make it again",
                path_.string(), offset, bytes);
    }
    p += n;
    offset += n;
    bytes -= n;
  }
}

uint64_t File::size() const {
  struct stat status;
  if (::fstat(fd_, &status) != 0) fail_io("read", path_, errno);
  return static_cast<uint64_t>(status.st_size);
}

void File::truncate(uint64_t bytes) {
  if (::ftruncate(fd_, static_cast<off_t>(bytes)) != 0) fail_io("shorten", path_, errno);
}

void File::sync() {
  if (::fsync(fd_) != 0) fail_io("write", path_, errno);
}

File File::duplicate() const {
  const int fd = ::fcntl(fd_, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) fail_io("open", path_, errno);
  return File(path_, fd);
}

OpenDirectory::OpenDirectory(std::filesystem::path path)
    : path_(std::move(path)), fd_(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  if (fd_ < 0) fail_io("open directory", path_, errno);
}

OpenDirectory::~OpenDirectory() {
  if (fd_ >= 0) ::close(fd_);
}

OpenDirectory::OpenDirectory(OpenDirectory&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

OpenDirectory& OpenDirectory::operator=(OpenDirectory&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  return *this;
}

std::optional<File> OpenDirectory::open(const std::string& name) const {
  const int fd = open_at(fd_, name.c_str(), O_RDONLY);
  if (fd < 0 && errno == ENOENT) return std::nullopt;
  if (fd < 0) fail_io("read", path_ / name, errno);
  check_kind_or_close(fd, path_ / name, "read", true);
  return File(path_ / name, fd);
}

bool OpenDirectory::in_place() const {
  struct stat held, found;
  return ::fstat(fd_, &held) == 0 && ::stat(path_.c_str(), &found) == 0 && held.st_dev == found.st_dev &&
         held.st_ino == found.st_ino;
}

std::string read_file(const File& file) {
  std::string content(file.size(), '\0');
  file.read_at(0, content.data(), content.size());
  return content;
}

std::string read_file(const std::filesystem::path& path) {
  return read_file(File(path, FileMode::kRead));
}

namespace {

void write_and_sync(const std::filesystem::path& path, FileMode mode, std::string_view content) {
  File file(path, mode);
  file.write_all(content);
  file.sync();
}

}  // namespace

void write_file(const std::filesystem::path& path, std::string_view content) {
  write_and_sync(path, FileMode::kCreate, content);
}

void replace_file(const std::filesystem::path& path, std::string_view content) {
  std::filesystem::path temporary = path;
  temporary += fmt::format(".tmp-{}", ::getpid());
  if (::unlink(temporary.c_str()) != 0 && errno != ENOENT) fail_io("replace", temporary, errno);
  try {
    write_and_sync(temporary, FileMode::kCreateNew, content);
    rename_path(temporary, path);
  } catch (...) {
    std::error_code ignored;  // the error on its way says more
    std::filesystem::remove(temporary, ignored);
    throw;
  }
  sync_directory(path.has_parent_path() ? path.parent_path() : ".");
}

void sync_directory(const std::filesystem::path& directory) {
  const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail_io("open directory", directory, errno);
  const int error = ::fsync(fd) == 0 ? 0 : errno;
  ::close(fd);
  // EINVAL: this file system has no directory sync and orders its renames itself.
  if (error != 0 && error != EINVAL) fail_io("write directory", directory, error);
}

void rename_path(const std::filesystem::path& from, const std::filesystem::path& to) {
  std::error_code error;
  std::filesystem::rename(from, to, error);
  if (error) fail_io(fmt::format("rename {} to", from.string()).c_str(), to, error.value());
}

void make_directories(const std::filesystem::path& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) fail_io("create directory", directory, error.value());
}

void make_new_directory(const std::filesystem::path& directory) {
  if (::mkdir(directory.c_str(), 0777) != 0) fail_io("create directory", directory, errno);
}

FileDigest digest_file(const std::filesystem::path& path) {
  return digest_file(File(path, FileMode::kRead));
}

FileDigest digest_file(const File& file) {
  FileDigest digest;
  const uint64_t total = file.size();
  std::vector<char> block(std::min<uint64_t>(kBlockBytes, total));
  while (digest.bytes < total) {
    const size_t n = std::min<uint64_t>(block.size(), total - digest.bytes);
    file.read_at(digest.bytes, block.data(), n);
    digest.crc32c = crc32c(block.data(), n, digest.crc32c);
    digest.bytes += n;
  }
  return digest;
}

}  // namespace spanwise
