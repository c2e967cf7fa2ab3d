#include "launcher/checkpoint/checkpoint_dir.h"

#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <chrono>

#include <csignal>
#include <set>
#include <string>

#include "core/crc32c.h"
#include "core/file_io.h"
#include "launcher/checkpoint/manifest_file.h"
#include "launcher/checkpoint/open_checkpoint.h"
#include "parallel/comm.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/user_error.h"

namespace spanwise {
namespace {

#define EXPECT_CONTAINS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

// Without write_file's sync, which would make hundreds of rewrites slow.
void overwrite(const std::filesystem::path& path, std::string_view content) {
  File(path, FileMode::kCreate).write_all(content);
}

class CheckpointDir : public testing::Test {
 protected:
  std::filesystem::path save(int64_t step, const std::string& model = "weights") {
    CheckpointWriter writer(root(), step);
    write_file(writer.path("model.safetensors"), model);
    write_file(writer.path("optimizer.safetensors"), "moments");
    Manifest manifest;
    manifest.set_tokens_seen(step * 1024);
    manifest.set_seed(7);
    return writer.commit(manifest);
  }
  std::filesystem::path root() const { return dir_ / "run/checkpoints"; }
  std::set<std::string> names() const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(root()))
      names.insert(entry.path().filename());
    return names;
  }
  static pid_t dead_pid() {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(0);
    ::waitpid(child, nullptr, 0);
    return child;
  }

  /// A process that writes until it is killed, or until this one ends.
  template <class F>
  static pid_t start_writer(F&& write) {
    const pid_t parent = ::getpid(), child = ::fork();
    if (child != 0) return child;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    try {
      for (int64_t step = 2; ::getppid() == parent; ++step) write(step);
    } catch (...) {  // the rest of the tests is the parent's
    }
    ::_exit(1);
  }

  TempDir dir_;
};

TEST_F(CheckpointDir, WhatIsCommittedReadsBack) {
  const auto directory = save(100);
  EXPECT_EQ(directory, root() / "step_00000100");
  EXPECT_EQ(newest_checkpoint(root()), directory);
  const Manifest manifest = verify_checkpoint(directory);
  EXPECT_EQ(manifest.format_version(), kCheckpointFormatVersion);
  EXPECT_EQ(manifest.step(), 100);
  EXPECT_EQ(manifest.tokens_seen(), 102400);
  EXPECT_EQ(manifest.seed(), 7u);
  ASSERT_EQ(manifest.files_size(), 2);
  EXPECT_EQ(manifest.files(0).name(), "model.safetensors");
  EXPECT_EQ(manifest.files(0).bytes(), 7u);
  EXPECT_EQ(manifest.files(0).crc32c(), crc32c("weights", 7));
  EXPECT_EQ(manifest.files(1).name(), "optimizer.safetensors");
  EXPECT_EQ(names(), (std::set<std::string>{"step_00000100"}));
}

TEST_F(CheckpointDir, AFileWhoseDigestWasAddedIsNotReadAgain) {
  CheckpointWriter writer(root(), 100);
  write_file(writer.path("model.safetensors"), "weights");
  writer.add("model.safetensors", {.bytes = 7, .crc32c = crc32c("weights", 7)});
  write_file(writer.path("model.safetensors"), "changed");  // what a second read would sum
  const auto directory = writer.commit({});
  EXPECT_EQ(read_manifest(directory).files(0).crc32c(), crc32c("weights", 7));
  EXPECT_CONTAINS(user_error_of([&] { verify_checkpoint(directory); }), "model.safetensors");
}

TEST_F(CheckpointDir, EveryByteFlippedInEveryFileIsFoundAndTheFileNamed) {
  const auto directory = save(100);
  for (const std::string name : {"model.safetensors", "optimizer.safetensors", "manifest.textproto"}) {
    const std::string sound = read_file(directory / name);
    for (size_t at = 0; at < sound.size(); ++at) {
      std::string damaged = sound;
      damaged[at] ^= 1;
      overwrite(directory / name, damaged);
      EXPECT_CONTAINS(user_error_of([&] { verify_checkpoint(directory); }), name) << "byte " << at;
    }
    overwrite(directory / name, sound);
    verify_checkpoint(directory);
  }
}

TEST_F(CheckpointDir, CutMissingAndGrownFilesAreAllNamedAtOnce) {
  const auto directory = save(100);
  write_file(directory / "model.safetensors", "weight");
  std::filesystem::remove(directory / "optimizer.safetensors");
  const std::string message = user_error_of([&] { verify_checkpoint(directory); });
  EXPECT_CONTAINS(message, "model.safetensors has 6 bytes instead of 7");
  EXPECT_CONTAINS(message, "optimizer.safetensors is missing");
  EXPECT_CONTAINS(message, "step_00000100");
}

TEST_F(CheckpointDir, AManifestThatNamesAnotherDirectorysFilesIsRefused) {
  const auto directory = save(100);
  save(200);
  for (const std::string name : {"../step_00000200/model.safetensors", "/etc/passwd", "..", "", ".hidden",
                                 "sub/x", "manifest.textproto", "model.safetensors"}) {
    Manifest manifest = read_manifest(root() / "step_00000200");
    manifest.set_step(100);
    manifest.mutable_files(1)->set_name(name);
    write_manifest_file(directory / "manifest.textproto", manifest);
    EXPECT_CONTAINS(user_error_of([&] { verify_checkpoint(directory); }), "'" + name + "'");
  }
}

TEST_F(CheckpointDir, AFileThatTheManifestDoesNotListIsNotRead) {
  const auto directory = save(100);
  write_file(directory / "planted.safetensors", "x");
  const OpenCheckpoint checkpoint(directory);
  checkpoint.verify();
  EXPECT_CONTAINS(user_error_of([&] { checkpoint.file("planted.safetensors"); }), "planted.safetensors");
  EXPECT_EQ(read_file(checkpoint.file("model.safetensors")), "weights");
}

TEST_F(CheckpointDir, ADirectoryUnderAnotherStepsNameIsRefused) {
  save(100);
  std::filesystem::rename(root() / "step_00000100", root() / "step_00000200");
  const std::string message = user_error_of([&] { read_manifest(root() / "step_00000200/"); });
  EXPECT_CONTAINS(message, "step 100");
  EXPECT_CONTAINS(message, "step_00000100");
  std::filesystem::rename(root() / "step_00000200", root() / "best");
  verify_checkpoint(root() / "best");  // a name that claims nothing
}

TEST_F(CheckpointDir, APipeInPlaceOfAFileIsRefusedAtOnce) {
  const auto directory = save(100);
  for (const std::string name : {"model.safetensors", "manifest.textproto"}) {
    std::filesystem::remove(directory / name);
    ASSERT_EQ(::mkfifo((directory / name).c_str(), 0600), 0);
    EXPECT_CONTAINS(user_error_of([&] { verify_checkpoint(directory); }), name);
  }
}

TEST_F(CheckpointDir, ACheckpointThatIsPrunedOrReplacedWhileOpenIsReadToItsEnd) {
  save(100);
  const OpenCheckpoint pruned(root() / "step_00000100");
  save(200);
  prune_checkpoints(root(), 1);
  ASSERT_EQ(names(), (std::set<std::string>{"step_00000200"}));
  pruned.verify();
  const OpenCheckpoint replaced(root() / "step_00000200");
  save(200, "other weights");
  replaced.verify();
  EXPECT_EQ(read_file(replaced.file("model.safetensors")), "weights");
  EXPECT_THROW(OpenCheckpoint(root() / "step_00000100"), CheckpointGone);
}

TEST_F(CheckpointDir, TheNewestOpensWholeBesideAWriterThatKeepsOne) {
  save(1);
  const pid_t child = start_writer([&](int64_t step) { prune_checkpoints(root(), 1, save(step)); });
  std::string problem;
  std::set<int64_t> steps;
  // On a busy machine until the writer had its turn.
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  for (int i = 0;
       problem.empty() && (i < 2000 || (steps.size() <= 3 && std::chrono::steady_clock::now() < end)); ++i) {
    problem = user_error_of([&] {
      const OpenCheckpoint checkpoint = open_newest_checkpoint(root());
      checkpoint.verify();
      steps.insert(checkpoint.manifest().step());
    });
    if (problem == "no UserError") problem.clear();
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_EQ(problem, "");
  EXPECT_GT(steps.size(), 3);  // else nothing was pruned meanwhile
}

TEST_F(CheckpointDir, WhatCannotBePrunedLeavesTheCheckpointWritten) {
  write_file(dir_ / "file", "");
  prune_checkpoints(dir_ / "file", 1, dir_ / "file/step_00000100");  // its root cannot be listed
}

TEST_F(CheckpointDir, ALinkUnderATemporaryDirectorysNameIsNotFollowed) {
  save(100);
  std::filesystem::create_directories(dir_ / "elsewhere");
  write_file(dir_ / "elsewhere/model.safetensors", "mine");
  std::filesystem::create_directory_symlink(dir_ / "elsewhere",
                                            root() / (".tmp-step_00000200-" + std::to_string(::getpid())));
  save(200);
  EXPECT_EQ(read_file(dir_ / "elsewhere/model.safetensors"), "mine");
  verify_checkpoint(root() / "step_00000200");
}

TEST_F(CheckpointDir, ACutManifestIsFoundAtEveryLength) {
  const auto directory = save(100);
  const std::string sound = read_file(directory / "manifest.textproto");
  for (size_t bytes = 0; bytes < sound.size(); ++bytes) {
    overwrite(directory / "manifest.textproto", sound.substr(0, bytes));
    EXPECT_CONTAINS(user_error_of([&] { read_manifest(directory); }), "manifest.textproto") << bytes;
  }
}

TEST_F(CheckpointDir, AManifestOfAnotherVersionIsRefusedAndAnOlderOneIsRead) {
  const auto directory = save(100);
  const auto write = [&](const std::string& text) {
    write_file(directory / "manifest.textproto",
               text + fmt::format("# crc32c: {:08x}\n", crc32c(text.data(), text.size())));
  };
  for (const char* text : {"step: 1\n", "format_version: 4\n", "format_version: 3\nunheard_of: 3\n"}) {
    write(text);
    EXPECT_CONTAINS(user_error_of([&] { read_manifest(directory); }), "another version") << text;
  }
  for (const char* format : {"1", "2"}) {
    write(fmt::format("format_version: {}\nstep: 100\n", format));
    EXPECT_EQ(read_manifest(directory).step(), 100);
  }
}

TEST_F(CheckpointDir, NewestIgnoresTemporariesAndForeignNames) {
  EXPECT_EQ(newest_checkpoint(root()), std::nullopt);  // there is no root yet
  save(9);
  save(100);
  for (const std::string name :
       {".tmp-step_00000300-1", ".old-step_00000300", "step_300", "step_0000030x", "best"}) {
    std::filesystem::create_directories(root() / name);
    write_file(root() / name / "manifest.textproto", "");
  }
  EXPECT_EQ(newest_checkpoint(root()), root() / "step_00000100");
  EXPECT_EQ(list_checkpoints(root()).size(), 2);
}

TEST_F(CheckpointDir, OneThatHasLostItsManifestIsNeitherTakenNorPassedOver) {
  save(100);
  std::filesystem::create_directories(root() / "step_00000050");
  EXPECT_EQ(newest_checkpoint(root()), root() / "step_00000100");
  std::filesystem::create_directories(root() / "step_00000200");
  EXPECT_CONTAINS(user_error_of([&] { newest_checkpoint(root()); }),
                  "step_00000200 has no manifest.textproto");
  EXPECT_EQ(list_checkpoints(root()).size(), 1);
  EXPECT_CONTAINS(user_error_of([&] { verify_checkpoint(root() / "step_00000200"); }),
                  "not a complete checkpoint");
}

TEST_F(CheckpointDir, StepsOrderByNumberNotByName) {
  save(99'999'999);
  save(100'000'000);
  EXPECT_EQ(newest_checkpoint(root()), root() / "step_100000000");
}

TEST_F(CheckpointDir, AWriterThatIsNotCommittedLeavesNothing) {
  save(100);
  {
    CheckpointWriter writer(root(), 200);
    write_file(writer.path("model.safetensors"), "half");
    EXPECT_EQ(newest_checkpoint(root()), root() / "step_00000100");
  }
  EXPECT_EQ(names(), (std::set<std::string>{"step_00000100"}));
}

TEST_F(CheckpointDir, TemporariesOfDeadRunsGoAndOfLiveOnesAndOthersStay) {
  save(100);
  const std::string dead = ".tmp-step_00000200-" + std::to_string(dead_pid());
  const std::string own = ".tmp-step_00000300-" + std::to_string(::getpid());
  const std::string live = ".tmp-step_00000400-" + std::to_string(::getppid());
  const std::string foreign = ".tmp-mine", other = ".old-mine";
  for (const std::string& name : {dead, own, live, foreign, other})
    std::filesystem::create_directories(root() / name / "sub");
  write_file(root() / ".seen-by-all-0123456789abcdef01234567", "");
  save(500);
  EXPECT_EQ(names(), (std::set<std::string>{live, foreign, other, "step_00000100", "step_00000500"}));
}

TEST_F(CheckpointDir, AnExistingStepIsReplacedWhole) {
  save(100, "old weights");
  {
    CheckpointWriter writer(root(), 100);
    write_file(writer.path("other"), "new");
    EXPECT_EQ(read_file(root() / "step_00000100/model.safetensors"), "old weights");
    verify_checkpoint(writer.commit({}));
  }
  EXPECT_FALSE(std::filesystem::exists(root() / "step_00000100/model.safetensors"));
  EXPECT_EQ(names(), (std::set<std::string>{"step_00000100"}));
}

TEST_F(CheckpointDir, AReplacementCutShortIsUndoneByTheNextWriter) {
  save(100);
  std::filesystem::rename(root() / "step_00000100",
                          root() / ".old-step_00000100");  // killed between the renames
  tidy_checkpoints(root());                                // before the newest is chosen
  EXPECT_EQ(newest_checkpoint(root()), root() / "step_00000100");
  save(200);
  verify_checkpoint(root() / "step_00000100");
  save(100);
  std::filesystem::copy(root() / "step_00000100",
                        root() / ".old-step_00000100");  // killed before the removal
  save(300);
  EXPECT_EQ(names(), (std::set<std::string>{"step_00000100", "step_00000200", "step_00000300"}));
}

TEST_F(CheckpointDir, KilledAtAnyInstantTheNewestCheckpointIsWhole) {
  save(1);
  for (int round = 0; round < 30; ++round) {
    const pid_t child = start_writer([&](int64_t step) {
      save(2 + step % 5, std::string(200'000, 'w'));
      prune_checkpoints(root(), 2);
    });
    ::usleep(1000 + 700 * round);
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    const auto newest = newest_checkpoint(root());
    ASSERT_TRUE(newest.has_value());
    verify_checkpoint(*newest);
  }
  save(50);
  for (const std::string& name : names()) EXPECT_EQ(name.find("step_"), 0) << name;
}

TEST_F(CheckpointDir, AFullDiskEndsInAUserErrorAndTheLastCheckpointStays) {
  save(100);
  ::signal(SIGXFSZ, SIG_IGN);  // a file size limit stands for the full disk
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit small = before;
  small.rlim_cur = 10;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string message = user_error_of([&] { save(100, "longer than the limit"); });
  const std::string manifest_message = user_error_of([&] { save(200); });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_CONTAINS(message, "model.safetensors");
  EXPECT_CONTAINS(manifest_message, "manifest.textproto");
  EXPECT_EQ(names(), (std::set<std::string>{"step_00000100"}));
  verify_checkpoint(root() / "step_00000100");
}

TEST_F(CheckpointDir, TooLittleFreeSpaceIsToldBeforeWriting) {
  const std::string message = user_error_of([&] { CheckpointWriter writer(root(), 1, uint64_t{1} << 60); });
  EXPECT_CONTAINS(message, "MiB free");
  EXPECT_TRUE(names().empty());
}

TEST_F(CheckpointDir, PruneKeepsTheNewestAndTheOneJustWritten) {
  for (int64_t step : {100, 200, 300, 400}) save(step);
  prune_checkpoints(root(), 0);
  EXPECT_EQ(names().size(), 4);
  prune_checkpoints(root(), 3);
  EXPECT_EQ(names(), (std::set<std::string>{"step_00000200", "step_00000300", "step_00000400"}));
  const auto written = save(50);  // a run that resumed from an older step
  prune_checkpoints(root(), 1, written);
  EXPECT_EQ(names(), (std::set<std::string>{"step_00000050", "step_00000400"}));
  prune_checkpoints(root(), 5);
  EXPECT_EQ(names().size(), 2);
}

TEST_F(CheckpointDir, AnUnusableRootIsNamed) {
  write_file(dir_ / "file", "");
  EXPECT_CONTAINS(user_error_of([&] { CheckpointWriter writer(dir_ / "file/root", 1); }), "file/root");
  EXPECT_CONTAINS(user_error_of([&] { list_checkpoints(dir_ / "file"); }), "file");
}

TEST_F(CheckpointDir, NamesThatLeaveTheDirectoryAreRefused) {
  const CheckpointWriter writer(root(), 1);
  for (const char* name : {"../x", "a/b", "", "..", "manifest.textproto"})
    EXPECT_THROW(writer.path(name), Error) << name;
}

}  // namespace
}  // namespace spanwise
