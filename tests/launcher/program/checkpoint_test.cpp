// What may be done with a run's checkpoints, and what is refused.

#include <atomic>
#include <cmath>
#include <cstring>
#include <thread>

#include "core/check.h"
#include "core/file_io.h"
#include "launcher/checkpoint/checkpoint_dir.h"
#include "launcher/checkpoint/open_checkpoint.h"
#include "tests/data/dataset_files.h"
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

const std::vector<std::string> kDiverging = {"optimizer.learning_rate=1e300", "optimizer.warmup_steps=0",
                                             "optimizer.schedule=CONSTANT", "optimizer.schedule_steps="};

// The loss of the only step is finite: it was computed before the update.
TEST_F(ProgramCheckpoint, TheLastUpdateIsLookedAtBeforeItIsSavedOrEvaluated) {
  std::vector<std::string> settings = kDiverging;
  settings.insert(settings.end(), {"train.steps=1", "run.dir=run"});
  for (const int ranks : {0, 2}) {
    for (const char* more : {"data.validation=", "parallel.zero_stage=3"}) {
      SCOPED_TRACE(fmt::format("{} on {} ranks", more, ranks));
      settings.push_back(more);
      const ProgramResult result = spanwise({"train", "config.textproto"}, settings, ranks);
      settings.pop_back();
      EXPECT_NE(result.exit_code, 0) << result.output;
      expect_said(result, "Step 1 made weights that are not finite");
      expect_said(result, "There is no checkpoint to go on from");
      EXPECT_FALSE(newest_checkpoint(path("run/checkpoints")));
    }
  }
}

TEST_F(ProgramCheckpoint, WhatADivergedRunSaysItKeepsIsThere) {
  train("run", {"train.steps=2"});
  std::vector<std::string> settings = kDiverging;
  settings.insert(settings.end(), {"train.steps=5", "run.dir=run", "checkpoint.every=1"});
  const ProgramResult result = spanwise({"train", "config.textproto"}, settings);
  EXPECT_NE(result.exit_code, 0) << result.output;
  expect_said(result, "run/checkpoints/step_00000002, whose weights are finite, is kept");
  EXPECT_EQ(checkpoint("run"), path("run/checkpoints/step_00000002"));
}

TEST_F(ProgramCheckpoint, AStepWithoutAnyTargetHasNoLossInsteadOfZero) {
  Documents documents(1000, {7});
  documents.push_back({7, 8});
  write_dataset(path("sparse"), documents, 257);
  train("run", {"data.train={path: 'sparse'}", "data.validation=", "train.steps=2"});
  std::vector<StepRecord> records = read_metrics(path("run"));
  ASSERT_EQ(records.size(), 2);
  EXPECT_TRUE(std::isnan(records[0].loss)) << records[0].loss;
}

/// Another checkpoint of the same manifest, one element of a file being NaN.
void save_with_nan(const fs::path& directory, const std::string& in) {
  const OpenCheckpoint sound(directory);
  CheckpointWriter writer(directory.parent_path(), sound.manifest().step());
  for (const Manifest::File& file : sound.manifest().files()) {
    std::string content = read_file(sound.file(file.name()));
    if (file.name() == in) std::memset(content.data() + content.size() - 8, 0xff, 8);
    File(writer.path(file.name()), FileMode::kCreateNew).write_all(content);
  }
  writer.commit(sound.manifest());
}

TEST_F(ProgramCheckpoint, WeightsThatAreNotFiniteAreRefusedWhereverTheyAreRead) {
  train("run", {"train.steps=2"});
  fs::copy(path("run"), path("moments"), fs::copy_options::recursive);
  save_with_nan(checkpoint("run"), "model.safetensors");
  save_with_nan(checkpoint("moments"), "optimizer.safetensors");
  struct Case {
    std::vector<std::string> arguments;
    const char* said;
  };
  for (const Case& refused :
       {Case{{"eval", "run"}, "model.safetensors holds numbers that are not finite"},
        Case{{"generate", "run"}, "model.safetensors holds numbers that are not finite"},
        Case{{"train", "run", "--set", "train.steps=3"},
             "model.safetensors holds numbers that are not finite"},
        Case{{"checkpoint", "inspect", checkpoint("run").string()}, "1 of"},
        Case{{"train", "moments", "--set", "train.steps=3"}, "optimizer.safetensors holds numbers"},
        Case{{"checkpoint", "inspect", checkpoint("moments").string()}, "in optimizer.safetensors"}}) {
    const ProgramResult result = spanwise(refused.arguments);
    EXPECT_NE(result.exit_code, 0) << result.output;
    expect_said(result, refused.said);
  }
  EXPECT_EQ(spanwise({"eval", "moments"}).exit_code, 0);
}

}  // namespace
}  // namespace spanwise::testing
