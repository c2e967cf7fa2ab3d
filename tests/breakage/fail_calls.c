// Preloaded into a program under test: the n-th call that changes files under a directory fails, or every
// fsync there is slow.
//   BREAK_UNDER=DIRECTORY  what counts: calls on paths that begin so
//   BREAK_AT=N             the call that fails, from 1; 0 or nothing: none
//   BREAK_FROM=1           all calls from it on that need space, too, as on a disk that stays full
//   BREAK_ERRNO=NUMBER     its error
//   BREAK_LOG=FILE         gets a line for every call, "N CALL PATH", and "failed" on those that failed
//   BREAK_SLOW_MS=MS       every fsync of a path that holds $BREAK_SLOW says so and takes so long, removing
//   there too

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_int calls;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void say(int fd, const char* line, int size) {
  if (REAL(write)(fd, line, (size_t)size) != size) abort();
}

// Whether this call fails; errno is then set.
static int fails(const char* call, const char* path, int needs_space) {
  const char* under = getenv("BREAK_UNDER");
  char absolute[PATH_MAX * 2];
  if (!under) return 0;
  if (path[0] != '/') {
    if (!getcwd(absolute, PATH_MAX)) return 0;
    size_t length = strlen(absolute);
    snprintf(absolute + length, sizeof(absolute) - length, "/%s", path);
    path = absolute;
  }
  if (strncmp(path, under, strlen(under)) != 0 || strstr(path, "/.output-")) return 0;
  const int number = atomic_fetch_add(&calls, 1) + 1;
  const int at = getenv("BREAK_AT") ? atoi(getenv("BREAK_AT")) : 0;
  const int fail = at > 0 && (number == at || (getenv("BREAK_FROM") && number > at && needs_space));
  if (getenv("BREAK_LOG")) {
    int log = REAL(open)(getenv("BREAK_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    char line[PATH_MAX * 2 + 64];
    int size = snprintf(line, sizeof(line), "%d %s %s%s\n", number, call, path, fail ? " failed" : "");
    if (log >= 0) say(log, line, size), close(log);
  }
  if (fail) errno = getenv("BREAK_ERRNO") ? atoi(getenv("BREAK_ERRNO")) : ENOSPC;
  return fail;
}

static const char* path_of(int fd, char* path) {
  char link[64];
  snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, PATH_MAX - 1);
  path[length < 0 ? 0 : length] = 0;
  return length > 0 && path[0] == '/' ? path : "/";
}

static int fails_fd(const char* call, int fd, int needs_space) {
  char path[PATH_MAX];
  return fails(call, path_of(fd, path), needs_space);
}

ssize_t write(int fd, const void* data, size_t bytes) {
  return fails_fd("write", fd, 1) ? -1 : REAL(write)(fd, data, bytes);
}
ssize_t pwrite(int fd, const void* data, size_t bytes, off_t offset) {
  return fails_fd("pwrite", fd, 1) ? -1 : REAL(pwrite)(fd, data, bytes, offset);
}
ssize_t pwrite64(int fd, const void* data, size_t bytes, off64_t offset) {
  return fails_fd("pwrite", fd, 1) ? -1 : REAL(pwrite64)(fd, data, bytes, offset);
}
ssize_t writev(int fd, const struct iovec* parts, int count) {
  return fails_fd("writev", fd, 1) ? -1 : REAL(writev)(fd, parts, count);
}
int ftruncate(int fd, off_t bytes) {
  return fails_fd("ftruncate", fd, 0) ? -1 : REAL(ftruncate)(fd, bytes);
}
int ftruncate64(int fd, off64_t bytes) {
  return fails_fd("ftruncate", fd, 0) ? -1 : REAL(ftruncate64)(fd, bytes);
}
int fsync(int fd) {
  char path[PATH_MAX];
  const char* slow = getenv("BREAK_SLOW");
  if (slow && strstr(path_of(fd, path), slow)) {
    say(STDERR_FILENO, "slow fsync\n", 11);
    usleep((useconds_t)atoi(getenv("BREAK_SLOW_MS")) * 1000);
  }
  return fails_fd("fsync", fd, 1) ? -1 : REAL(fsync)(fd);
}
int fdatasync(int fd) {
  return fails_fd("fdatasync", fd, 1) ? -1 : REAL(fdatasync)(fd);
}
int rename(const char* from, const char* to) {
  return fails("rename", to, 0) ? -1 : REAL(rename)(from, to);
}
int mkdir(const char* path, mode_t mode) {
  return fails("mkdir", path, 1) ? -1 : REAL(mkdir)(path, mode);
}

// Only those that make a file: reading needs no space.
#define MAKES(flags) (((flags)&O_CREAT) || ((flags)&O_TMPFILE) == O_TMPFILE)
#define OPEN(name, call)                       \
  int name(const char* path, int flags, ...) { \
    mode_t mode = 0;                           \
    if (MAKES(flags)) {                        \
      va_list rest;                            \
      va_start(rest, flags);                   \
      mode = va_arg(rest, mode_t);             \
      va_end(rest);                            \
      if (fails(call, path, 1)) return -1;     \
    }                                          \
    return REAL(name)(path, flags, mode);      \
  }
OPEN(open, "open")
OPEN(open64, "open")

// Relative to a directory that is held open, or to the working directory.
static int fails_at(const char* call, int directory, const char* name, int needs_space) {
  char path[PATH_MAX * 2];
  if (name[0] == '/' || directory == AT_FDCWD) return fails(call, name, needs_space);
  path_of(directory, path);
  const size_t length = strlen(path);
  snprintf(path + length, sizeof(path) - length, "/%s", name);
  return fails(call, path, needs_space);
}

#define OPENAT(name)                                          \
  int name(int directory, const char* path, int flags, ...) { \
    mode_t mode = 0;                                          \
    if (MAKES(flags)) {                                       \
      va_list rest;                                           \
      va_start(rest, flags);                                  \
      mode = va_arg(rest, mode_t);                            \
      va_end(rest);                                           \
      if (fails_at("open", directory, path, 1)) return -1;    \
    }                                                         \
    return REAL(name)(directory, path, flags, mode);          \
  }
OPENAT(openat)
OPENAT(openat64)

// Removing takes as long as a sync, so that pruning is a moment of its own.
int unlinkat(int directory, const char* name, int flags) {
  char path[PATH_MAX];
  const char* slow = getenv("BREAK_SLOW");
  if (slow && directory != AT_FDCWD && strstr(path_of(directory, path), slow))
    usleep((useconds_t)atoi(getenv("BREAK_SLOW_MS")) * 1000);
  return REAL(unlinkat)(directory, name, flags);
}

FILE* fopen(const char* path, const char* mode) {
  return mode[0] != 'r' && fails("fopen", path, 1) ? NULL : REAL(fopen)(path, mode);
}
FILE* fopen64(const char* path, const char* mode) {
  return mode[0] != 'r' && fails("fopen", path, 1) ? NULL : REAL(fopen64)(path, mode);
}
