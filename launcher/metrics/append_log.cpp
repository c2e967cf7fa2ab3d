#include "launcher/metrics/append_log.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <system_error>

#include "launcher/metrics/history.h"

namespace spanwise {

namespace {

constexpr size_t kMostUnsyncedBytes = size_t{16} << 20;

}  // namespace

AppendLog::AppendLog(const std::filesystem::path& path)
    : file_(path, FileMode::kAppend), whole_bytes_(file_.size()), synced_bytes_(whole_bytes_) {
  open_handle();
}

AppendLog::~AppendLog() {
  if (handle_ >= 0) ::close(handle_);
}

void AppendLog::open_handle() {
  if (handle_ >= 0) ::close(handle_);
  handle_ = ::open(file_.path().c_str(), O_PATH | O_CLOEXEC);
}

bool AppendLog::in_place() const {
  struct stat opened {};
  struct stat named {};
  return ::fstat(handle_, &opened) == 0 && ::stat(file_.path().c_str(), &named) == 0 &&
         opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

void AppendLog::warn(const UserError& error) {
  if (!failing_) spdlog::warn("{}; training goes on, the records wait in memory", error.what());
  failing_ = true;
}

void AppendLog::append(std::string_view record) {
  waiting_ += record;
  unsynced_ += record;
  try {
    if (!in_place()) make_again();
    if (failing_) file_.truncate(whole_bytes_);
    file_.write_all(waiting_);
    whole_bytes_ += waiting_.size();
    waiting_.clear();
    if (failing_) spdlog::info("{} is written again, nothing is missing", file_.path().string());
    failing_ = false;
  } catch (const UserError& error) {
    warn(error);
  }
  if (unsynced_.size() > kMostUnsyncedBytes) sync();
}

void AppendLog::make_again() {
  const std::filesystem::path path = file_.path();
  // The open file still has what was written, wherever its name went.
  std::string content(whole_bytes_, '\0');
  file_.read_at(0, content.data(), content.size());
  make_directories(path.has_parent_path() ? path.parent_path() : ".");
  std::filesystem::path temporary = path;
  temporary += fmt::format(".tmp-{}", ::getpid());
  std::error_code error;
  std::filesystem::remove(temporary, error);  // of an attempt before
  std::string aside;
  try {
    File(temporary, FileMode::kCreateNew).write_all(content);
    if (std::filesystem::exists(std::filesystem::symlink_status(path, error))) {
      const std::filesystem::path other = unused_path(path, ".replaced");
      rename_path(path, other);
      aside = fmt::format("; what was put there is {} now", other.string());
    }
    rename_path(temporary, path);
  } catch (const UserError&) {
    std::filesystem::remove(temporary, error);
    throw;
  }
  File file(path, FileMode::kAppend);
  file_ = std::move(file);
  open_handle();
  synced_bytes_ = 0;
  unsynced_ = content + waiting_;
  spdlog::warn("{} was moved or removed while it was being written: it is made again with all its records{}",
               path.string(), aside);
}

void AppendLog::sync() {
  if (failing_) return;
  try {
    file_.sync();
    synced_bytes_ = whole_bytes_;
    unsynced_.clear();
  } catch (const UserError& error) {
    warn(error);
    whole_bytes_ = synced_bytes_;
    waiting_ = unsynced_;
  }
}

}  // namespace spanwise
