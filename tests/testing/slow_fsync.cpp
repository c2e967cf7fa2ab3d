// Preloaded into a program under test: fsync of a file whose path holds $SLOW_FSYNC_OF says so on standard
// error, takes $SLOW_FSYNC_MS, and fails with the error number $SLOW_FSYNC_ERROR if that is set.

#include <dlfcn.h>
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
