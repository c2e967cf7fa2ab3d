#include "data/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/check.h"

namespace spanwise {

MappedFile::MappedFile(const std::string& path) : path_(path) {
  struct Descriptor {
    int value;
    ~Descriptor() {
      if (value >= 0) close(value);
    }
  } fd{open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (fd.value < 0)
    fail_user("cannot open {}: {}; correct the path, or write it with 'spanwise data prepare'", path,
              std::strerror(errno));
  struct stat status;
  if (fstat(fd.value, &status) != 0) fail_user("cannot read {}: {}", path, std::strerror(errno));
  if (!S_ISREG(status.st_mode)) fail_user("{} is not a regular file", path);
  size_ = status.st_size;
  if (size_ == 0) return;
  void* address = mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd.value, 0);
  if (address == MAP_FAILED) fail_user("cannot map {} ({} bytes): {}", path, size_, std::strerror(errno));
  data_ = static_cast<const std::byte*>(address);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(other.data_), size_(other.size_) {
  other.data_ = nullptr;
  other.size_ = 0;
}

MappedFile::~MappedFile() {
  if (data_) munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace spanwise
