#pragma once
// Arbitrary bytes as files for readers that take paths. A fuzz target is one function over bytes; the only
// thing that a reader may throw at bad input is a UserError, and that error has to name the file.
//
// Files lie in a directory of the process in $TMPDIR, best one in memory. One million cases are to take
// minutes.

#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "core/check.h"

namespace spanwise::fuzz {

using Bytes = std::span<const uint8_t>;

inline std::string_view text_of(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// This process's directory, made at the first call.
inline const std::filesystem::path& directory() {
  static const std::filesystem::path path = [] {
    std::filesystem::path made =
        std::filesystem::temp_directory_path() / ("spanwise_fuzz_" + std::to_string(::getpid()));
    std::filesystem::create_directories(made);
    return made;
  }();
  return path;
}

/// Gives the file this content and returns its path. The file is made once and stays open, for speed: for
/// readers that neither replace nor remove it.
inline const std::filesystem::path& file(std::string_view name, Bytes bytes) {
  struct Open {
    std::filesystem::path path;
    int fd;
  };
  static std::map<std::string, Open, std::less<>> files;
  auto found = files.find(name);
  if (found == files.end()) {
    std::filesystem::path path = directory() / name;
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    found = files.emplace(name, Open{std::move(path), fd}).first;
  }
  const Open& file = found->second;
  if (::pwrite(file.fd, bytes.data(), bytes.size(), 0) != ssize_t(bytes.size()) ||
      ::ftruncate(file.fd, off_t(bytes.size())) != 0) {
    std::perror(file.path.c_str());
    std::abort();
  }
  return file.path;
}

/// Runs `read`; a UserError that names `name` is a right answer to bad input, anything else that it throws is
/// a finding, and so is an error that leaves its reader without a sentence.
template <class F>
void expect_answer(std::string_view name, F&& read) {
  try {
    read();
  } catch (const UserError& error) {
    const std::string_view text = error.what();
    if (text.find(name) != text.npos) return;
    std::fprintf(stderr, "the error does not name %s: %s\n", std::string(name).c_str(), error.what());
    std::abort();
  }
}

}  // namespace spanwise::fuzz
