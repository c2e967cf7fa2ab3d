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

std::string OpenCheckpoint::problem_of(const Manifest::File& entry) const {
  const std::optional<File>& file = files_.at(entry.name());
  if (!file) return entry.name() + " is missing";
  // The length first: it costs nothing, and a file that grows without end is not read.
  if (file->size() != entry.bytes()) {
    return fmt::format("{} has {} bytes instead of {}", entry.name(), file->size(), entry.bytes());
  }
  const uint32_t crc32c = digest_file(*file).crc32c;
  if (crc32c == entry.crc32c()) return "";
  return fmt::format("{} has CRC-32C {:08x} instead of {:08x}", entry.name(), crc32c, entry.crc32c());
}

void OpenCheckpoint::verify(const std::vector<std::string>& names) const {
  std::string problems;
  for (const Manifest::File& entry : manifest_.files()) {
    if (!names.empty() && std::find(names.begin(), names.end(), entry.name()) == names.end()) continue;
    const std::string problem = problem_of(entry);
    if (!problem.empty()) problems += (problems.empty() ? "" : ", ") + problem;
  }
  if (problems.empty()) return;
  fail_user(
      "checkpoint {} is damaged: {}; bring back a copy, or move the directory away to resume from the one "
      "before it",
      directory().string(), problems);
}

OpenCheckpoint open_newest_checkpoint(const fs::path& root, Comm& world) {
  for (int tries_left = kMostTries;; --tries_left) {
    std::string directory;
    if (world.rank() == 0) {
      const auto newest = newest_checkpoint(root);
      if (!newest) {
        fail_user("There is no checkpoint in {}; train first, or name one with --checkpoint.", root.string());
      }
      directory = newest->string();
    }
    world.broadcast("newest_checkpoint", directory);
    std::optional<OpenCheckpoint> checkpoint;
    try {
      checkpoint.emplace(directory);
    } catch (const CheckpointGone&) {
      if (tries_left == 0) throw;
    }
    std::vector<double> gone{checkpoint ? 0.0 : 1.0};
    world.all_reduce("checkpoint_gone", gone, Reduce::kMax);
    if (gone[0] == 0) return std::move(*checkpoint);
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
