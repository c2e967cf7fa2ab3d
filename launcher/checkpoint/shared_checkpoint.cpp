#include "launcher/checkpoint/shared_checkpoint.h"

#include <string>
#include <utility>

#include "core/check.h"
#include "parallel/rank_zero.h"

namespace spanwise {

namespace {

template <class F>
std::optional<OpenCheckpoint> on_rank_zero(Comm& world, F&& open) {
  std::optional<OpenCheckpoint> files;
  const auto work = [&] {
    files.emplace(open());
    return std::string();
  };
  run_on_rank_zero(world, "open_checkpoint", work);
  return files;
}

}  // namespace

SharedCheckpoint::SharedCheckpoint(const std::filesystem::path& directory, Comm& world)
    : SharedCheckpoint(on_rank_zero(world, [&] { return OpenCheckpoint(directory); }), world) {}

SharedCheckpoint SharedCheckpoint::newest(const std::filesystem::path& root, Comm& world) {
  return {on_rank_zero(world, [&] { return open_newest_checkpoint(root); }), world};
}

SharedCheckpoint::SharedCheckpoint(std::optional<OpenCheckpoint> files, Comm& world)
    : files_(std::move(files)) {
  std::string directory = files_ ? files_->directory().string() : "";
  std::string manifest = files_ ? files_->manifest().SerializeAsString() : "";
  world.broadcast("checkpoint_manifest", directory);
  world.broadcast("checkpoint_manifest", manifest);
  directory_ = directory;
  SPANWISE_CHECK(manifest_.ParseFromString(manifest), "a manifest of {} bytes does not parse",
                 manifest.size());
}

const OpenCheckpoint& SharedCheckpoint::files() const {
  SPANWISE_CHECK(files_.has_value(), "{} is open on rank 0 alone", directory_.string());
  return *files_;
}

}  // namespace spanwise
