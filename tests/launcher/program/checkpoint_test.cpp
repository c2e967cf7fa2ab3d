// What may be done with a run's checkpoints, and what is refused.

#include <atomic>
#include <thread>

#include "core/check.h"
#include "core/file_io.h"
#include "launcher/checkpoint/checkpoint_dir.h"
#include "launcher/checkpoint/open_checkpoint.h"
#include "tests/launcher/program/tiny_run.h"

namespace spanwise::testing {
namespace {

namespace fs = std::filesystem;

class ProgramCheckpoint : public TinyRunTest {
 protected:
  static void expect_said(const ProgramResult& result, const std::string& part) {
    EXPECT_NE(result.output.find(part), std::string::npos) << part << " in " << result.output;
  }
};

/// Saves a run's checkpoint again and again as that of the next step, and keeps one, as a training does.
class EndlessSaver {
 public:
  explicit EndlessSaver(const fs::path& root) : thread_([this, root] { save(root); }) {}
  ~EndlessSaver() {
    ends_ = true;
    thread_.join();
  }

 private:
  void save(const fs::path& root) {
    while (!ends_) {
      const OpenCheckpoint last(*newest_checkpoint(root));
      CheckpointWriter writer(root, last.manifest().step() + 1);
      for (const Manifest::File& file : last.manifest().files()) {
        File(writer.path(file.name()), FileMode::kCreateNew).write_all(read_file(last.file(file.name())));
      }
      prune_checkpoints(root, 1, writer.commit(last.manifest()));
    }
  }

  std::atomic<bool> ends_ = false;
  std::thread thread_;
};

TEST_F(ProgramCheckpoint, EvaluationBesideATrainingThatKeepsOneCheckpointNeverFails) {
  train("run", {"train.steps=1"});
  const fs::path first = checkpoint("run");
  {
    const EndlessSaver saver(path("run/checkpoints"));
    for (const int ranks : {0, 0, 0, 0, 0, 0, 2}) {
      const ProgramResult result = spanwise({"eval", "run", "--sequences", "2"}, {}, ranks);
      EXPECT_EQ(result.exit_code, 0) << result.output;
    }
  }
  EXPECT_NE(checkpoint("run"), first) << "nothing was pruned meanwhile";
}

}  // namespace
}  // namespace spanwise::testing
