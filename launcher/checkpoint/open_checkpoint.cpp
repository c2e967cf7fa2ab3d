#include "launcher/checkpoint/open_checkpoint.h"

#include <algorithm>
#include <optional>
#include <system_error>
#include <utility>

#include "launcher/checkpoint/checkpoint_dir.h"
#include "launcher/checkpoint/manifest_file.h"

namespace spanwise {
namespace {

namespace fs = std::filesystem;

// Opening takes milliseconds: a training that saves faster than that is not waited for for ever.
constexpr int kMostTries = 100;

[[noreturn]] void fail_gone(const fs::path& directory) {
  throw CheckpointGone(
      fmt::format("{} is not there, or was removed while it was being opened; name another checkpoint, or "
                  "raise checkpoint.keep_last of the run that writes it",
                  directory.string()));
}

OpenDirectory open_directory(const fs::path& directory) {
  std::error_code ignored;
  try {
    return OpenDirectory(directory);
  } catch (const UserError&) {
    // Named by whoever lists checkpoints, or by hand: in both cases it is not there.
    if (!fs::exists(directory, ignored) && step_of_name(directory.filename().string())) fail_gone(directory);
    throw;
  }
}

Manifest manifest_in(const OpenDirectory& directory) {
  const std::optional<File> file = directory.open(std::string(kManifestName));
  if (file) return read_manifest_file(*file);
  if (!directory.in_place()) fail_gone(directory.path());
  fail_user("{} is not a complete checkpoint: it has no {}; name a directory step_... that has one",
            directory.path().string(), kManifestName);
}

// A directory that was renamed would resume at one step under the name of another, and be ordered wrongly.
void check_step(const fs::path& directory, const Manifest& manifest) {
  std::error_code error;
  const fs::path whole = fs::canonical(directory, error);  // "." and links have the name they lead to
  const std::optional<int64_t> step = step_of_name((error ? directory : whole).filename().string());
  if (!step || *step == manifest.step()) return;
  fail_user("{} holds the checkpoint of step {}, which its name does not say; rename it to {}",
            directory.string(), manifest.step(), checkpoint_path("", manifest.step()).string());
}

}  // namespace

OpenCheckpoint::OpenCheckpoint(const fs::path& directory)
    : directory_(open_directory(directory)), manifest_(manifest_in(directory_)) {
  check_step(directory, manifest_);
  for (const Manifest::File& entry : manifest_.files()) {
    const auto [at, added] = files_.emplace(entry.name(), directory_.open(entry.name()));
    if (!at->second && !directory_.in_place()) fail_gone(directory);
  }
}

File OpenCheckpoint::file(const std::string& name) const {
  const auto found = files_.find(name);
  if (found == files_.end()) {
    fail_user("{} lists no {}: nothing vouches for that file; use a checkpoint that is complete",
              (directory() / kManifestName).string(), name);
  }
  if (!found->second) fail_user("{} is missing; bring back a copy", (directory() / name).string());
  return found->second->duplicate();
}

// The length first: it costs nothing, and a file that grows without end is not read.
std::string OpenCheckpoint::length_problem(const Manifest::File& entry) const {
  const std::optional<File>& file = files_.at(entry.name());
  if (!file) return entry.name() + " is missing";
  if (file->size() == entry.bytes()) return "";
  return fmt::format("{} has {} bytes instead of {}", entry.name(), file->size(), entry.bytes());
}

std::string OpenCheckpoint::digest_problem(const Manifest::File& entry, const FileDigest& read) const {
  if (read.bytes != entry.bytes()) return fmt::format("{} has another length", entry.name());
  if (read.crc32c == entry.crc32c()) return "";
  return fmt::format("{} has CRC-32C {:08x} instead of {:08x}", entry.name(), read.crc32c, entry.crc32c());
}

void OpenCheckpoint::verify(const std::vector<std::string>& names) const {
  std::vector<std::string> problems;
  for (const Manifest::File& entry : manifest_.files()) {
    if (!names.empty() && std::find(names.begin(), names.end(), entry.name()) == names.end()) continue;
    problems.push_back(length_problem(entry));
    if (problems.back().empty())
      problems.push_back(digest_problem(entry, digest_file(*files_.at(entry.name()))));
  }
  fail_if_damaged(problems);
}

void OpenCheckpoint::require_lengths(const std::vector<std::string>& names) const {
  std::vector<std::string> problems;
  for (const Manifest::File& entry : manifest_.files()) {
    if (std::find(names.begin(), names.end(), entry.name()) != names.end())
      problems.push_back(length_problem(entry));
  }
  fail_if_damaged(problems);
}

void OpenCheckpoint::require_digests(const std::map<std::string, FileDigest>& read) const {
  std::vector<std::string> problems;
  for (const Manifest::File& entry : manifest_.files()) {
    const auto found = read.find(entry.name());
    if (found != read.end()) problems.push_back(digest_problem(entry, found->second));
  }
  fail_if_damaged(problems);
}

void OpenCheckpoint::fail_if_damaged(const std::vector<std::string>& problems) const {
  std::string text;
  for (const std::string& problem : problems) {
    if (!problem.empty()) text += (text.empty() ? "" : ", ") + problem;
  }
  if (text.empty()) return;
  fail_user(
      "checkpoint {} is damaged: {}; bring back a copy, or move the directory away to resume from the one "
      "before it",
      directory().string(), text);
}

OpenCheckpoint open_newest_checkpoint(const fs::path& root) {
  for (int tries_left = kMostTries;; --tries_left) {
    const auto newest = newest_checkpoint(root);
    if (!newest) {
      fail_user("There is no checkpoint in {}; train first, or name a checkpoint elsewhere.", root.string());
    }
    try {
      return OpenCheckpoint(*newest);
    } catch (const CheckpointGone&) {
      if (tries_left == 0) throw;
    }
  }
}

Manifest read_manifest(const fs::path& directory) {
  return OpenCheckpoint(directory).manifest();
}

Manifest verify_checkpoint(const fs::path& directory) {
  const OpenCheckpoint checkpoint(directory);
  checkpoint.verify();
  return checkpoint.manifest();
}

}  // namespace spanwise
