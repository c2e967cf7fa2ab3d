#include "launcher/run_lock.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <system_error>

#include "core/check.h"
#include "core/file_io.h"
#include "launcher/config/derived.h"

namespace spanwise {

namespace {

namespace fs = std::filesystem;

std::string error_text(int error) {
  return std::generic_category().message(error);
}

/// "process 4711 on node7, Slurm job 99, since 2026-11-29 00:31:02".
std::string this_holder() {
  char host[256] = "an unnamed host", time[32] = "";
  ::gethostname(host, sizeof(host) - 1);
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  ::localtime_r(&now, &local);
  std::strftime(time, sizeof(time), "%Y-%m-%d %H:%M:%S", &local);
  std::string job;
  for (const auto& [variable, name] :
       {std::pair{"SLURM_JOB_ID", "Slurm"}, {"PBS_JOBID", "PBS"}, {"LSB_JOBID", "LSF"}}) {
    if (const char* id = std::getenv(variable)) job = fmt::format(", {} job {}", name, id);
  }
  return fmt::format("process {} on {}{}, since {}", ::getpid(), host, job, time);
}

std::string holder_in(int fd) {
  std::string text(512, '\0');
  const ssize_t length = ::pread(fd, text.data(), text.size(), 0);
  text.resize(size_t(std::max<ssize_t>(length, 0)));
  text.resize(std::min(text.size(), text.find('\n')));
  return text.empty() ? "a process that has not said its name yet" : text;
}

bool is_file(int fd, const fs::path& path) {
  struct stat opened {
  }, named{};
  return ::fstat(fd, &opened) == 0 && ::lstat(path.c_str(), &named) == 0 && opened.st_dev == named.st_dev &&
         opened.st_ino == named.st_ino;
}

}  // namespace

DirectoryLock::DirectoryLock(fs::path directory, const std::string& field)
    : directory_(std::move(directory)), file_(directory_ / "run.lock") {
  std::error_code error;
  for (fs::path missing = directory_;
       !missing.empty() && fs::symlink_status(missing, error).type() == fs::file_type::not_found;
       missing = missing.parent_path()) {
    if (missing.has_filename()) made_.insert(made_.begin(), missing);
  }
  try {
    make_directories(directory_);
    take(field);
  } catch (...) {
    remove_made_directories();
    throw;
  }
}

DirectoryLock::~DirectoryLock() {
  if (fd_ < 0) return;
  // Removed while it is held: who opened it before finds that it is no longer there and opens the next one.
  if (in_place()) ::unlink(file_.c_str());
  ::close(fd_);
  remove_made_directories();
}

void DirectoryLock::remove_made_directories() {
  for (auto made = made_.rbegin(); made != made_.rend(); ++made) ::rmdir(made->c_str());
}

bool DirectoryLock::in_place() const {
  return fd_ < 0 || is_file(fd_, file_);
}

void DirectoryLock::take(const std::string& field) {
  for (;;) {
    // Open for writing: NFS has no exclusive locks otherwise.
    const int fd = ::open(file_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
    if (fd < 0) {
      fail_user("cannot write {}: {}; set {} to a directory that this user may write to, or remove the file",
                file_.string(), error_text(errno), field);
    }
    int error = 0;
    do error = ::flock(fd, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
    while (error == EINTR);
    if (error == EWOULDBLOCK) {
      const std::string holder = holder_in(fd);
      ::close(fd);
      throw DirectoryHeld(
          fmt::format("{} is used by another training: {}; wait for it, end it, or set another {}.",
                      directory_.string(), holder, field));
    }
    if (error != 0) {
      ::close(fd);  // the file stays: another training may hold it
      spdlog::warn("{} cannot be locked ({}): see to it that no second training is started there",
                   directory_.string(), error_text(error));
      return;
    }
    if (!is_file(fd, file_)) {  // its holder removed it meanwhile
      ::close(fd);
      continue;
    }
    fd_ = fd;
    const std::string holder = this_holder() + "\n";
    if (::ftruncate(fd, 0) != 0 || ::pwrite(fd, holder.data(), holder.size(), 0) != ssize_t(holder.size()))
      spdlog::warn("{} cannot say who holds it: {}", file_.string(), error_text(errno));
    return;
  }
}

RunLocks::RunLocks(const RunConfig& config)
    : run_(std::make_unique<DirectoryLock>(config.run().dir(), "run.dir")) {
  std::error_code missing;
  one_directory_ = fs::equivalent(run_->directory(), checkpoint_dir(config), missing);
  reopen(config);
}

bool RunLocks::in_place() const {
  const auto holds = [](const auto& lock) { return lock && lock->in_place(); };
  return holds(run_) && (one_directory_ || holds(checkpoints_));
}

void RunLocks::reopen(const RunConfig& config) {
  const auto take = [](std::unique_ptr<DirectoryLock>& lock, const fs::path& directory, const char* field) {
    if (lock && lock->in_place()) return;
    lock.reset();
    lock = std::make_unique<DirectoryLock>(directory, field);
  };
  take(run_, config.run().dir(), "run.dir");
  if (!one_directory_) take(checkpoints_, checkpoint_dir(config), "checkpoint.dir");
}

}  // namespace spanwise
