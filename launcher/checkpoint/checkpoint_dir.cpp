#include "launcher/checkpoint/checkpoint_dir.h"

#include <signal.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <string>
#include <system_error>

#include "core/check.h"
#include "core/file_io.h"
#include "launcher/checkpoint/manifest_file.h"

namespace spanwise {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kStepPrefix = "step_";
constexpr size_t kStepDigits = 8;
// Never a checkpoint; removed once its process is gone.
constexpr std::string_view kTemporaryPrefix = ".tmp-";
// A checkpoint moved aside while another takes its name.
constexpr std::string_view kReplacedPrefix = ".old-";

// A file by which ranks found that they see the same directory (shared_directory.h), while they looked.
constexpr std::string_view kMarkPrefix = ".seen-by-all-";

constexpr int kMostListings = 20;

template <class Integer>
std::optional<Integer> whole_number(std::string_view text) {
  Integer value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

fs::path temporary_path(const fs::path& root, const fs::path& name) {
  return root / fmt::format("{}{}-{}", kTemporaryPrefix, name.string(), ::getpid());
}

// The process in the name of a temporary directory; empty for names that temporary_path does not make.
std::optional<pid_t> maker_of(std::string_view name) {
  if (!name.starts_with(kTemporaryPrefix)) return std::nullopt;
  const size_t dash = name.rfind('-');
  if (dash < kTemporaryPrefix.size()) return std::nullopt;
  if (!step_of_name(name.substr(kTemporaryPrefix.size(), dash - kTemporaryPrefix.size())))
    return std::nullopt;
  return whole_number<pid_t>(name.substr(dash + 1));
}

// Whether another process of this machine with that number runs. A temporary directory with this process's
// own number is an earlier process's, since there is one writer at a time: in containers, numbers repeat.
bool runs_elsewhere(pid_t pid) {
  return pid != ::getpid() && (::kill(pid, 0) == 0 || errno == EPERM);
}

// UserError where it cannot be told.
bool is_there(const fs::path& path) {
  std::error_code error;
  const bool found = fs::exists(path, error);
  if (error) fail_user("cannot look at {}: {}; check its permissions", path.string(), error.message());
  return found;
}

void remove_or_warn(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) spdlog::warn("cannot remove {}: {}; remove it by hand", path.string(), error.message());
}

std::vector<fs::path> entries_of(const fs::path& directory) {
  std::error_code error;
  std::vector<fs::path> entries;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    entries.push_back(it->path());
  }
  if (error) {
    fail_user("cannot list {}: {}; check that it is a readable directory", directory.string(),
              error.message());
  }
  std::sort(entries.begin(), entries.end());
  return entries;
}

void check_free_space(const fs::path& root, uint64_t needed_bytes) {
  std::error_code error;
  const fs::space_info space = fs::space(root, error);
  if (error || space.available >= needed_bytes) return;
  fail_user(
      "a checkpoint needs {} MiB but {} has {} MiB free; free some space or set another checkpoint directory",
      needed_bytes >> 20, root.string(), space.available >> 20);
}

}  // namespace

void tidy_checkpoints(const fs::path& root) {
  if (!is_there(root)) return;
  for (const fs::path& entry : entries_of(root)) {
    const std::string name = entry.filename().string();
    const std::optional<pid_t> maker = maker_of(name);
    if (maker && !runs_elsewhere(*maker)) {
      spdlog::info("removing {}, left by a run that ended early", entry.string());
      remove_or_warn(entry);
    }
    if (name.starts_with(kMarkPrefix)) remove_or_warn(entry);
    if (name.starts_with(kReplacedPrefix) &&
        step_of_name(std::string_view(name).substr(kReplacedPrefix.size()))) {
      const fs::path original = root / name.substr(kReplacedPrefix.size());
      if (is_there(original)) {
        remove_or_warn(entry);
      } else {
        rename_path(entry, original);
      }
    }
  }
}

CheckpointWriter::CheckpointWriter(fs::path root, int64_t step, uint64_t needed_bytes)
    : root_(std::move(root)), step_(step) {
  SPANWISE_CHECK(step >= 0, "step is {}, expected at least 0", step);
  make_directories(root_);
  tidy_checkpoints(root_);
  check_free_space(root_, needed_bytes);
  temporary_ = temporary_path(root_, checkpoint_path(root_, step).filename());
  make_new_directory(temporary_);
}

CheckpointWriter::~CheckpointWriter() {
  if (committed_) return;
  std::error_code ignored;  // what stays is removed by the next writer
  fs::remove_all(temporary_, ignored);
}

fs::path CheckpointWriter::path(std::string_view name) const {
  SPANWISE_CHECK(is_checkpoint_file_name(name), "'{}' is not a plain file name, or reserved", name);
  return temporary_ / name;
}

void CheckpointWriter::add(std::string_view name, const FileDigest& digest) {
  SPANWISE_CHECK(added_.emplace(path(name).filename(), digest).second, "{} is added twice", name);
}

void CheckpointWriter::list_files(Manifest& manifest) const {
  manifest.clear_files();
  size_t num_added = 0;
  for (const fs::path& entry : entries_of(temporary_)) {
    const std::string name = entry.filename().string();
    const auto added = added_.find(name);
    if (added == added_.end())
      File(entry, FileMode::kRead).sync();
    else
      ++num_added;
    const FileDigest digest = added == added_.end() ? digest_file(entry) : added->second;
    Manifest::File* file = manifest.add_files();
    file->set_name(name);
    file->set_bytes(digest.bytes);
    file->set_crc32c(digest.crc32c);
  }
  SPANWISE_CHECK(num_added == added_.size(), "{} of {} files that were added are in {}", num_added,
                 added_.size(), temporary_.string());
}

fs::path CheckpointWriter::commit(Manifest manifest) {
  SPANWISE_CHECK(!committed_, "checkpoint of step {} is already committed", step_);
  list_files(manifest);
  manifest.set_format_version(kCheckpointFormatVersion);
  manifest.set_step(step_);
  write_manifest_file(temporary_ / kManifestName, manifest);
  sync_directory(temporary_);

  const fs::path final_path = checkpoint_path(root_, step_);
  const fs::path replaced = root_ / (std::string(kReplacedPrefix) + final_path.filename().string());
  const bool replaces = is_there(final_path);
  if (replaces) rename_path(final_path, replaced);
  try {
    rename_path(temporary_, final_path);
  } catch (...) {
    if (replaces) rename_path(replaced, final_path);
    throw;
  }
  committed_ = true;
  try {
    sync_directory(root_);
  } catch (const UserError& error) {  // it stands, and is gone on from unless the machine fails soon
    spdlog::warn("{} is complete, but its name may be lost if the machine fails now: {}", final_path.string(),
                 error.what());
  }
  if (replaces) remove_or_warn(replaced);
  return final_path;
}

std::optional<int64_t> step_of_name(std::string_view name) {
  if (!name.starts_with(kStepPrefix) || name.size() < kStepPrefix.size() + kStepDigits) return std::nullopt;
  const std::optional<int64_t> step = whole_number<int64_t>(name.substr(kStepPrefix.size()));
  return step && *step >= 0 ? step : std::nullopt;
}

fs::path checkpoint_path(const fs::path& root, int64_t step) {
  return root / fmt::format("{}{:0{}}", kStepPrefix, step, kStepDigits);
}

std::vector<CheckpointEntry> list_checkpoints(const fs::path& root) {
  std::vector<CheckpointEntry> checkpoints;
  if (!is_there(root)) return checkpoints;
  // A training may rename a new checkpoint in and an old one out while the names are read one by one, and
  // then neither is seen.
  bool settled = false;
  for (int listings = 0; checkpoints.empty() && !settled && listings < kMostListings; ++listings) {
    settled = true;
    for (const fs::path& entry : entries_of(root)) {
      const std::string name = entry.filename().string();
      const std::optional<int64_t> step = step_of_name(name);
      if (step && is_there(entry / kManifestName)) {
        checkpoints.push_back({*step, entry});
      } else if (step ? !is_there(entry) : maker_of(name).has_value()) {
        settled = false;
      }
    }
  }
  std::sort(checkpoints.begin(), checkpoints.end(),
            [](const auto& a, const auto& b) { return a.step < b.step; });
  return checkpoints;
}

namespace {

// A directory takes its name when it is whole, and gives it back before it is removed: one that has lost its
// manifest was damaged, and training on from an older one, or from the beginning, would replace it.
void refuse_without_manifest(const fs::path& root, int64_t newest) {
  if (!is_there(root)) return;
  for (const fs::path& entry : entries_of(root)) {
    const std::optional<int64_t> step = step_of_name(entry.filename().string());
    // The directory is looked for last: a training may remove it meanwhile.
    if (!step || *step <= newest || is_there(entry / kManifestName) || !is_there(entry)) continue;
    fail_user(
        "{} has no {}: it is damaged; bring back a copy of the file, or move the directory away to go on "
        "from the checkpoint before it",
        entry.string(), kManifestName);
  }
}

}  // namespace

std::optional<fs::path> newest_checkpoint(const fs::path& root) {
  const std::vector<CheckpointEntry> checkpoints = list_checkpoints(root);
  refuse_without_manifest(root, checkpoints.empty() ? -1 : checkpoints.back().step);
  if (checkpoints.empty()) return std::nullopt;
  return checkpoints.back().directory;
}

void prune_checkpoints(const fs::path& root, size_t keep, const fs::path& just_written) {
  if (keep == 0) return;
  std::vector<CheckpointEntry> checkpoints;
  try {
    checkpoints = list_checkpoints(root);
  } catch (const std::exception& error) {
    spdlog::warn("old checkpoints are kept: {}", error.what());
    return;
  }
  for (size_t i = 0; i + keep < checkpoints.size(); ++i) {
    const fs::path& directory = checkpoints[i].directory;
    if (directory.filename() == just_written.filename()) continue;
    // Renamed first, so that no half-removed directory is ever taken for a checkpoint.
    const fs::path doomed = temporary_path(root, directory.filename());
    std::error_code error;
    fs::rename(directory, doomed, error);
    if (error) {
      spdlog::warn("cannot remove the old checkpoint {}: {}; remove it by hand", directory.string(),
                   error.message());
      continue;
    }
    remove_or_warn(doomed);
  }
}

}  // namespace spanwise
