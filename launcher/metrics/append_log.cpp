#include "launcher/metrics/append_log.h"

#include <spdlog/spdlog.h>

#include "core/check.h"

namespace spanwise {

AppendLog::AppendLog(const std::filesystem::path& path)
    : file_(path, FileMode::kAppend), whole_bytes_(file_.size()) {}

void AppendLog::append(std::string_view record) {
  waiting_ += record;
  try {
    if (failing_) file_.truncate(whole_bytes_);
    file_.write_all(waiting_);
    whole_bytes_ += waiting_.size();
    waiting_.clear();
    if (failing_) spdlog::info("{} is written again, nothing is missing", file_.path().string());
    failing_ = false;
  } catch (const UserError& error) {
    if (!failing_) spdlog::warn("{}; training goes on, the records wait in memory", error.what());
    failing_ = true;
  }
}

void AppendLog::sync() {
  if (!failing_) file_.sync();
}

}  // namespace spanwise
