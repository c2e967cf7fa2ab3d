#include "launcher/checkpoint/shared_directory.h"

#include <random>
#include <string>
#include <vector>

#include "core/check.h"
#include "core/file_io.h"
#include "parallel/rank_zero.h"

namespace spanwise {

namespace {

namespace fs = std::filesystem;

// A name that nobody can have looked for before: file systems remember for a while what was not there.
std::string new_mark() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}{:08x}", random(), random(), random());
}

bool sees(const fs::path& file, const std::string& mark) {
  try {
    return read_file(file) == mark;
  } catch (const UserError&) {
    return false;
  }
}

}  // namespace

void require_shared_directory(Comm& world, const fs::path& directory) {
  std::string mark = world.rank() == 0 ? new_mark() : "";
  const auto file = [&] { return directory / (".seen-by-all-" + mark); };
  const auto leave_mark = [&]() -> std::string {
    try {
      make_directories(directory);
      write_file(file(), mark);
      return "";
    } catch (const UserError& error) {
      return error.what();
    }
  };
  const std::string problem = run_on_rank_zero(world, "checkpoint_writers", leave_mark);
  if (!problem.empty()) fail_user("{}", problem);
  world.broadcast("checkpoint_writers", mark);
  std::vector<double> blind{sees(file(), mark) ? 0.0 : double(world.size() - world.rank())};
  world.all_reduce("checkpoint_writers", blind, Reduce::kMax);
  if (world.rank() == 0) {
    std::error_code ignored;  // an empty name in a directory that was just written to
    fs::remove(file(), ignored);
  }
  if (blind[0] == 0) return;
  fail_user(
      "checkpoint.writers is ALL but rank {} does not see in {} what rank 0 writes there: set "
      "checkpoint.writers: ONE, or a checkpoint.dir on a file system that all ranks share.",
      world.size() - int(blind[0]), directory.string());
}

}  // namespace spanwise
