// Preloaded into a program under test: fsync of a file whose path holds $SLOW_FSYNC_OF says so on standard
// error, takes $SLOW_FSYNC_MS, and fails with the error number $SLOW_FSYNC_ERROR if that is set. The first mkdir
// of a path that holds $FAILING_MKDIR_OF says so, takes 500 ms and finds the disk full.

#include <dlfcn.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>

extern "C" int fsync(int fd) {
  using Fsync = int (*)(int);
  static const Fsync real = reinterpret_cast<Fsync>(::dlsym(RTLD_NEXT, "fsync"));
  const char* const slow = ::getenv("SLOW_FSYNC_OF");
  char link[64], path[PATH_MAX] = "";
  ::snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
  const ssize_t length = ::readlink(link, path, sizeof(path) - 1);
  if (!slow || length < 0 || !::strstr(path, slow)) return real(fd);
  char line[PATH_MAX + 32];
  const int size = ::snprintf(line, sizeof(line), "slow fsync of %s\n", path);
  if (::write(STDERR_FILENO, line, size_t(size)) != size) return -1;
  if (const char* ms = ::getenv("SLOW_FSYNC_MS")) ::usleep(useconds_t(::atoi(ms)) * 1000);
  if (const char* error = ::getenv("SLOW_FSYNC_ERROR")) {
    errno = ::atoi(error);
    return -1;
  }
  return real(fd);
}

extern "C" int mkdir(const char* path, mode_t mode) {
  using Mkdir = int (*)(const char*, mode_t);
  static const Mkdir real = reinterpret_cast<Mkdir>(::dlsym(RTLD_NEXT, "mkdir"));
  static bool failed = false;
  const char* const failing = ::getenv("FAILING_MKDIR_OF");
  if (failed || !failing || !::strstr(path, failing)) return real(path, mode);
  failed = true;
  constexpr char kLine[] = "failing mkdir\n";
  if (::write(STDERR_FILENO, kLine, sizeof(kLine) - 1) < 0) return -1;
  ::usleep(500'000);
  errno = ENOSPC;
  return -1;
}
