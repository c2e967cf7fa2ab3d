// Saving beside training, on data × tensor ranks. Every rank runs every test.

#include "launcher/checkpoint/checkpoint_saver.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <fstream>
#include <map>
#include <set>
#include <thread>

#include "core/file_io.h"
#include "launcher/checkpoint/checkpoint_dir.h"
#include "launcher/checkpoint/open_checkpoint.h"
#include "launcher/checkpoint/read_state.h"
#include "launcher/checkpoint/shard_plan.h"
#include "launcher/checkpoint/shared_directory.h"
#include "models/hf/safetensors.h"
#include "tests/testing/op_testing.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/user_error.h"

namespace spanwise::testing {
namespace {

namespace fs = std::filesystem;
using Tensors = std::map<std::string, std::vector<double>>;

#define EXPECT_CONTAINS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

constexpr double kTimeoutS = 30;

Comm& world() {
  static const std::unique_ptr<Comm> comm = [] {
    std::unique_ptr<Comm> made = make_world_comm();
    made->set_timeout(kTimeoutS);  // a rank that fails alone must not keep the others
    return made;
  }();
  return *comm;
}

// Rows, columns and a vector, divided among tensor ranks but for the vector.
struct Layers : Module {
  Param rows, columns, norm;
  Layers(int rank, int size) {
    const int64_t n = 24 / size, begin = rank * n, end = begin + n;
    rows = {{n, 5}, init::normal(1), true, {{24, 5}, 0, {{begin, end}}}};
    columns = {{7, n}, init::normal(1), true, {{7, 24}, 1, {{begin, end}}}};
    norm = {{13}, init::normal(1), false, {}};
    norm.placement.partial_gradient = true;
  }
  void visit(const std::string& prefix, const ParamVisitor& visitor) override {
    visitor(prefix + "rows", rows);
    visitor(prefix + "columns", columns);
    visitor(prefix + "norm", norm);
  }
};

constexpr int64_t kElements = 24 * 5 + 7 * 24 + 13;

// A model, its optimizer and a directory for its checkpoints, which rank 0 makes.
struct Training {
  explicit Training(int zero_stage, const char* writers = "ONE", int tensor_size = 1)
      : mesh(world(), {.data = world().size() / tensor_size, .tensor = tensor_size}),
        module(mesh.tensor().rank(), tensor_size),
        params(test_context(), module,
               {.dtype = DType::kF64, .seed = 9, .zero_stage = zero_stage, .bucket_bytes = 600},
               mesh.data_sequence(), mesh.tensor()),
        optimizer(params) {
    std::string path = (dir / "checkpoints").string();
    world().broadcast("directory", path);
    root = path;
    config.mutable_checkpoint()->set_dir(path);
    config::CheckpointConfig::Writers parsed;
    SPANWISE_CHECK(config::CheckpointConfig::Writers_Parse(writers, &parsed), "writers {}", writers);
    config.mutable_checkpoint()->set_writers(parsed);
    for (const Tensor& moment : {optimizer.first_moment(), optimizer.second_moment()})
      moment.copy_from(random_tensor({moment.numel()}, DType::kF64, "moment"));
  }
  // Rank 0's directory goes when all are done with it.
  ~Training() { world().barrier("done"); }

  CheckpointSaver saver(SaverOptions options = {}) {
    return CheckpointSaver(config, mesh, params, optimizer, std::move(options));
  }

  TempDir dir;
  fs::path root;
  RunConfig config;
  Mesh mesh;
  Layers module;
  ParamStore params;
  ShardedAdamW optimizer;
};

// Every tensor of every file that a checkpoint's manifest names.
Tensors tensors_in(const fs::path& directory) {
  Tensors tensors;
  const OpenCheckpoint checkpoint(directory);
  checkpoint.verify();
  const Manifest& manifest = checkpoint.manifest();
  for (const Manifest::File& file : manifest.files()) {
    if (!file.name().ends_with(".safetensors")) continue;
    const SafetensorsReader reader(directory / file.name());
    for (const SafetensorsInfo& info : reader.tensors()) {
      std::vector<double> values(info.bytes / 8);
      reader.read(info.name, values.data(), info.bytes);
      EXPECT_TRUE(tensors.emplace(info.name, values).second) << info.name << " is there twice";
    }
  }
  return tensors;
}

std::set<std::string> names_in(const fs::path& directory) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.insert(entry.path().filename());
  return names;
}

SaveOutcome save(CheckpointSaver& saver, int64_t step) {
  saver.begin({}, step);
  const auto outcome = saver.finish();
  SPANWISE_CHECK(outcome.has_value(), "a save was begun and has no outcome");
  return *outcome;
}

std::vector<int> tensor_sizes() {
  return world().size() == 4 ? std::vector<int>{1, 2, 4} : std::vector<int>{1, world().size()};
}

TEST(CheckpointSaver, AnyLayoutAndAnyWritersSaveTheSameTensors) {
  for (const int tensor_size : tensor_sizes()) {
    Tensors expected;
    for (const int stage : {0, 1, 2, 3}) {
      for (const char* writers : {"ONE", "ALL"}) {
        SCOPED_TRACE(fmt::format("stage {}, {} tensor ranks, {}", stage, tensor_size, writers));
        Training training(stage, writers, tensor_size);
        CheckpointSaver saver = training.saver({.block_bytes = 200});
        const SaveOutcome outcome = save(saver, 3);
        ASSERT_FALSE(outcome.failed) << outcome.failure;
        EXPECT_EQ(outcome.directory, (training.root / "step_00000003").string());
        Tensors tensors = tensors_in(outcome.directory);
        EXPECT_EQ(tensors.size(), 9u);
        for (const char* name : {"rows", "columns", "norm"}) {
          // Moments are random in the order of a layout: only the values can be compared.
          if (expected.count(name)) {
            EXPECT_EQ(tensors[name], expected[name]) << name;
          }
          expected[name] = tensors[name];
        }
        const bool sharded = std::string(writers) == "ALL" && training.mesh.data().size() > 1;
        EXPECT_EQ(names_in(outcome.directory).count("model.safetensors.index.json"), sharded ? 1u : 0u);
        EXPECT_EQ(names_in(outcome.directory).count("model.safetensors"), sharded ? 0u : 1u);
      }
    }
  }
}

TEST(CheckpointSaver, IndexNamesTheFileOfEveryTensor) {
  Training training(1, "ALL");
  CheckpointSaver saver = training.saver();
  const fs::path directory = save(saver, 1).directory;
  if (training.mesh.data().size() == 1) {
    EXPECT_EQ(names_in(directory).size(), 3u);
    return;
  }
  const std::string index = read_file(directory / "optimizer.safetensors.index.json");
  EXPECT_CONTAINS(index, fmt::format("\"total_size\": {}", 2 * 8 * kElements));
  for (const std::string& name : names_in(directory)) {
    if (!name.starts_with("optimizer-")) continue;
    const SafetensorsReader reader(directory / name);
    for (const SafetensorsInfo& info : reader.tensors())
      EXPECT_CONTAINS(index, fmt::format("\"{}\": \"{}\"", info.name, name));
  }
}

TEST(CheckpointSaver, WhatIsSavedIsWhatWasThereWhenItBegan) {
  for (const char* writers : {"ONE", "ALL"}) {
    Training training(1, writers);
    CheckpointSaver saver = training.saver();
    const Tensors before = tensors_in(save(saver, 1).directory);
    std::atomic<bool> go = false;
    SaverOptions slow{.block_bytes = 300, .before_write = [&] {
                        while (!go) std::this_thread::yield();
                      }};
    CheckpointSaver second = training.saver(slow);
    second.begin({}, 2);
    training.params.values().fill(0);
    training.optimizer.first_moment().fill(0);
    EXPECT_TRUE(second.pending());
    EXPECT_FALSE(second.poll());
    EXPECT_FALSE(fs::exists(training.root / "step_00000002"));
    world().barrier();
    go = true;
    const auto outcome = second.finish();
    ASSERT_TRUE(outcome && !outcome->failed);
    EXPECT_EQ(tensors_in(outcome->directory), before);
    EXPECT_FALSE(second.pending());
    EXPECT_FALSE(second.poll());
  }
}

TEST(CheckpointSaver, ASlowDiskIsNoCollectiveThatTimesOut) {
  Training training(0);
  CheckpointSaver saver =
      training.saver({.before_write = [] { std::this_thread::sleep_for(std::chrono::duration<double>(5)); }});
  world().set_timeout(2);
  const SaveOutcome outcome = save(saver, 1);
  world().set_timeout(kTimeoutS);
  EXPECT_FALSE(outcome.failed) << outcome.failure;
  EXPECT_GT(saver.take_wait_ms(), 1000);
  EXPECT_EQ(saver.take_wait_ms(), 0);
}

TEST(CheckpointSaver, WithoutMemoryForTheCopyItWaitsForTheDiskAndSaysSo) {
  for (const char* writers : {"ONE", "ALL"}) {
    Training training(1, writers);
    CheckpointSaver roomy = training.saver({.block_bytes = 100});
    const Tensors expected = tensors_in(save(roomy, 1).directory);
    EXPECT_EQ(roomy.take_notice(), "");
    // One rank alone lacks it.
    const int64_t available = world().rank() == 0 ? 1000 : INT64_MAX;
    CheckpointSaver saver =
        training.saver({.block_bytes = 100, .available_bytes = [=] { return available; }});
    saver.begin({}, 2);
    EXPECT_TRUE(fs::exists(training.root / "step_00000002"));
    EXPECT_CONTAINS(saver.take_notice(), "training stands still");
    const auto outcome = saver.finish();
    ASSERT_TRUE(outcome && !outcome->failed);
    EXPECT_EQ(tensors_in(outcome->directory), expected);
  }
}

TEST(CheckpointSaver, ARankWithoutMemoryForABlockFailsTheSaveAndNotTheRun) {
  for (const char* writers : {"ONE", "ALL"}) {
    Training training(0, writers);
    bool full = world().rank() == 0;
    CheckpointSaver saver = training.saver({.available_bytes = [] { return int64_t{1000}; },
                                            .before_reserve =
                                                [&] {
                                                  if (full) fail_user("no memory is left");
                                                }});
    const SaveOutcome failed = save(saver, 1);
    EXPECT_TRUE(failed.failed);
    EXPECT_CONTAINS(failed.failure, "no memory is left");
    full = false;
    const SaveOutcome outcome = save(saver, 2);
    EXPECT_FALSE(outcome.failed) << outcome.failure;
    EXPECT_TRUE(fs::exists(training.root / "step_00000002"));
  }
}

/// No file of this process grows past `bytes`: what a full disk does.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    rlimit limit = before_;
    limit.rlim_cur = bytes;
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { ::setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_;
};

TEST(CheckpointSaver, ARankThatCannotWriteFailsTheSaveOnAllAndTheOldOneStays) {
  for (const char* writers : {"ONE", "ALL"}) {
    Training training(1, writers);
    CheckpointSaver saver = training.saver({.block_bytes = 500});
    const Tensors expected = tensors_in(save(saver, 1).directory);
    world().barrier();
    const int full = std::string(writers) == "ALL" ? training.mesh.data().size() - 1 : 0;
    {
      std::optional<FileSizeLimit> limit;
      if (world().rank() == full) limit.emplace(700);
      const SaveOutcome outcome = save(saver, 2);
      EXPECT_TRUE(outcome.failed);
      EXPECT_EQ(outcome.step, 2);
      EXPECT_CONTAINS(outcome.failure, "safetensors");
      EXPECT_CONTAINS(outcome.failure, "File too large");
    }
    EXPECT_EQ(names_in(training.root), (std::set<std::string>{"step_00000001"}));
    world().barrier();
    const SaveOutcome outcome = save(saver, 3);
    ASSERT_FALSE(outcome.failed) << outcome.failure;
    EXPECT_EQ(tensors_in(outcome.directory), expected);
  }
}

TEST(CheckpointSaver, OldOnesGoOnlyWhenTheNewOneStands) {
  Training training(0);
  training.config.mutable_checkpoint()->set_keep_last(1);
  CheckpointSaver saver = training.saver();
  save(saver, 1);
  std::atomic<bool> go = false;
  CheckpointSaver slow = training.saver({.before_write = [&] {
    while (!go) std::this_thread::yield();
  }});
  slow.begin({}, 2);
  EXPECT_FALSE(slow.poll());
  EXPECT_TRUE(fs::exists(training.root / "step_00000001"));
  world().barrier();
  go = true;
  slow.finish();
  EXPECT_EQ(names_in(training.root), (std::set<std::string>{"step_00000002"}));
}

TEST(CheckpointSaver, ReplicatedStateIsSavedWithoutSendingIt) {
  for (const char* writers : {"ONE", "ALL"}) {
    Training training(0, writers);
    CheckpointSaver saver = training.saver();
    world().reset_traffic();
    save(saver, 1);
    int64_t bytes = 0;
    for (const auto& [name, traffic] : world().traffic()) {
      // How often ranks ask each other whether the disk is done depends on the disk.
      if (name != "checkpoint_state") bytes += traffic.received_bytes;
    }
    EXPECT_LT(bytes, 3000) << "agreements and a path";
    EXPECT_EQ(world().traffic().count("collect_whole"), 0u);
    for (const Comm* axis : training.mesh.axes()) EXPECT_EQ(axis->traffic().count("gather_whole"), 0u);
  }
}

TEST(CheckpointSaver, WhatRankZeroLacksIsSentToItOnce) {
  Training training(1);
  CheckpointSaver saver = training.saver();
  world().reset_traffic();
  save(saver, 1);
  const auto found = world().traffic().find("collect_whole");
  const int64_t received = found == world().traffic().end() ? 0 : found->second.received_bytes;
  if (world().rank() != 0) {
    EXPECT_EQ(received, 0);
    return;
  }
  // Both moments but for its own slices, which may be padding; the values are on every rank.
  EXPECT_LE(received, 2 * 8 * kElements);
  EXPECT_GE(received, 2 * 8 * (kElements - training.params.layout().slice_numel()));
}

/// Bytes that this process has asked its files for.
int64_t bytes_read() {
  std::ifstream io("/proc/self/io");
  std::string key;
  int64_t value = 0;
  io >> key >> value;
  SPANWISE_CHECK(key == "rchar:", "/proc/self/io begins with '{}'", key);
  return value;
}

// Large beside what a process reads of /proc and its transports.
struct Wide : Module {
  Param weights{{700, 1000}, init::normal(1), true, {}};
  void visit(const std::string& prefix, const ParamVisitor& visitor) override {
    visitor(prefix + "weights", weights);
  }
};

TEST(CheckpointSaver, RankZeroReadsEachByteOnceAndTheOthersNone) {
  for (const char* writers : {"ONE", "ALL"}) {
    Training training(1, writers);
    Wide wide;
    ParamStore params(test_context(), wide, {.dtype = DType::kF64, .zero_stage = 1},
                      training.mesh.data_sequence(), training.mesh.tensor());
    ShardedAdamW optimizer(params);
    CheckpointSaver saver(training.config, training.mesh, params, optimizer);
    const fs::path directory = save(saver, 1).directory;
    params.values().fill(0);
    const double bytes = 8.0 * 700 * 1000;
    const auto read = [&](const std::vector<std::string_view>& stems) {
      world().barrier();
      const int64_t before = bytes_read();
      const SharedCheckpoint checkpoint(directory, world());
      if (world().rank() == 0) require_whole_files(checkpoint, stems);
      const ParamHolders holders(params);
      read_tensors(checkpoint, kModelStem, holders, world(), model_buffers(params));
      if (stems.size() > 1)
        read_tensors(checkpoint, kOptimizerStem, holders, world(), optimizer_buffers(optimizer));
      return double(bytes_read() - before);
    };
    const bool reads = world().rank() == 0;
    EXPECT_NEAR(read({kModelStem}), reads ? bytes : 0, 0.05 * bytes) << "what eval reads";
    EXPECT_NEAR(read({kModelStem, kOptimizerStem}), reads ? 3 * bytes : 0, 0.05 * bytes);
    EXPECT_NE(params.values().to_vector<double>()[0], 0);
  }
}

TEST(CheckpointSaver, ADamagedByteOfAnyFileIsFoundWhileItIsReadAndTheFileNamed) {
  for (const char* writers : {"ONE", "ALL"}) {
    Training training(1, writers);
    CheckpointSaver saver = training.saver();
    const fs::path directory = save(saver, 1).directory;
    if (world().rank() == 0) {
      // As one rank alone would read it: the others would wait.
      const auto self = make_self_comm();
      Layers module(0, 1);
      const ParamStore params(test_context(), module, {.dtype = DType::kF64}, *self, *self);
      const ParamHolders holders(params);
      const Tensor first = params.make_moment(), second = params.make_moment();
      const auto read = [&](std::string_view stem) {
        const SharedCheckpoint checkpoint(directory, *self);
        const bool model = stem == kModelStem;
        read_tensors(checkpoint, stem, holders, *self,
                     model ? model_buffers(params)
                           : std::vector<NamedBuffer>{{".exp_avg", first}, {".exp_avg_sq", second}});
      };
      for (const std::string& name : names_in(directory)) {
        if (!name.ends_with(".safetensors")) continue;
        const std::string sound = read_file(directory / name);
        const std::string_view stem = name.starts_with("model") ? kModelStem : kOptimizerStem;
        for (size_t at = 0; at < sound.size(); at += 97) {
          std::string damaged = sound;
          damaged[at] ^= 1;
          File(directory / name, FileMode::kCreate).write_all(damaged);
          const std::string message = user_error_of([&] { read(stem); });
          EXPECT_CONTAINS(message, name) << "byte " << at;
          EXPECT_CONTAINS(message, "damaged") << "byte " << at;
        }
        File(directory / name, FileMode::kCreate).write_all(sound);
        read(stem);
      }
    }
  }
}

TEST(CheckpointSaver, ADirectoryThatNotAllRanksSeeIsRefusedNamingOne) {
  Training shared(0);
  require_shared_directory(world(), shared.root);
  EXPECT_TRUE(world().rank() != 0 || fs::is_empty(shared.root));
  if (world().size() == 1) return;
  // A path of its own stands for another machine's disk.
  const fs::path own = world().rank() == 1 ? shared.dir / "own" : shared.root;
  const std::string message = user_error_of([&] { require_shared_directory(world(), own); });
  EXPECT_CONTAINS(message, "rank 1 does not see");
  EXPECT_CONTAINS(message, "checkpoint.writers: ONE");
  EXPECT_TRUE(world().rank() != 0 || fs::is_empty(shared.root));
}

}  // namespace
}  // namespace spanwise::testing
