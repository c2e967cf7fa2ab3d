// `spanwise data` as its users call it.

#include <fcntl.h>
#include <unistd.h>

#include <csignal>

#include "core/check.h"
#include "core/file_io.h"
#include "data/indexed_dataset.h"
#include "tests/launcher/program/tiny_run.h"

namespace spanwise::testing {
namespace {

namespace fs = std::filesystem;

class ProgramData : public TinyRunTest {
 protected:
  /// The command fails and says all of `named`, and no file has changed.
  void expect_refused(std::vector<std::string> arguments, const std::vector<std::string>& named) {
    SCOPED_TRACE(fmt::format("{}", fmt::join(arguments, " ")));
    const auto before = files_below(path(""));
    arguments.insert(arguments.begin(), "data");
    const ProgramResult result = spanwise(arguments);
    EXPECT_NE(result.exit_code, 0) << result.output;
    for (const std::string& part : named)
      EXPECT_NE(result.output.find(part), std::string::npos) << part << " in " << result.output;
    EXPECT_TRUE(files_below(path("")) == before) << "files have changed";
  }
};

TEST_F(ProgramData, FlagsWithoutEffectAndOutputsThatAreFoldersAreRefused) {
  write_file(path("a.jsonl"), "{\"text\": \"a\"}\n");
  expect_refused({"prepare", "--output", "out/", "text.txt"}, {"--output out/ names a folder", "out/text"});
  expect_refused({"prepare", "--output", "x", "--text-field", "b", "text.txt"},
                 {"--text-field has no effect"});
  expect_refused({"prepare", "--output", "x", "--separator", "b", "a.jsonl"}, {"--separator has no effect"});
  expect_refused({"prepare", "--output", "x", "--stdin", "jsonl", "text.txt"}, {"--stdin has no effect"});
  expect_refused({"prepare", "--output", "x", "--verify", "text.txt"}, {"--verify has no effect"});
  expect_refused({"inspect", "train", "--threads", "2"}, {"--threads has no effect"});
  expect_refused({"prepare", "--output", "x", "--invalid-utf8", "ignore", "text.txt"},
                 {"ignore", "'replace'"});
  expect_refused({"prepare", "--output", "x", "--tokenizer", "t.model", "--train-tokenizer", "300", "-"},
                 {"--train-tokenizer reads the input twice"});
}

TEST_F(ProgramData, AnOutputThatExistsIsSaidBeforeATokenizerIsTrained) {
  for (const char* held : {"--holdout-documents", "--holdout-tails"}) {
    write_file(path("y_valid.bin"), "something");
    expect_refused({"prepare", "--output", "y", "--tokenizer", "t.model", "--train-tokenizer", "300", held,
                    "0.1", "text.txt"},
                   {"y_valid.bin exists already"});
  }
  expect_refused(
      {"prepare", "--output", "train", "--tokenizer", "t.model", "--train-tokenizer", "300", "text.txt"},
      {"train.bin exists already"});
}

TEST_F(ProgramData, CountsOfWhatIsLeftOutAreSaid) {
  fs::create_directory(path("folder"));
  write_file(path("folder/a.jsonl"), "{\"text\": \"a\"}\nnonsense\n{\"text\": \" \"}\n");
  write_file(path("folder/b.md"), "# b");
  write_file(path("folder/c.png"), "c");
  const ProgramResult result =
      spanwise({"data", "prepare", "--output", "x", "--skip-bad-records", "--threads", "1", "folder"});
  EXPECT_EQ(result.exit_code, 0) << result.output;
  for (const char* part : {"x: 2 documents", "1 empty document left out", "1 bad record left out",
                           "a.jsonl:2", "1 file of other kinds"})
    EXPECT_NE(result.output.find(part), std::string::npos) << part << " in " << result.output;
}

TEST_F(ProgramData, InspectVerifiesAndSaysWhatIsUnverified) {
  EXPECT_NE(spanwise({"data", "inspect", "train", "--verify"}).output.find("every block of train.bin"),
            std::string::npos);
  std::string bin = read_file(path("train.bin"));
  bin[bin.size() / 2] ^= 2;
  write_file(path("train.bin"), bin);
  expect_refused({"inspect", "train", "--verify"}, {"train.bin is damaged", "checksum"});
  fs::remove(path("train.meta.json"));
  EXPECT_NE(spanwise({"data", "inspect", "train"}).output.find("the dataset is unverified"),
            std::string::npos);
  expect_refused({"inspect", "train", "--verify"}, {"train.meta.json does not exist"});
  const ProgramResult trained = train("run", {"train.steps=1"});
  EXPECT_NE(trained.output.find("unverified, without a table of checksums: train;"), std::string::npos)
      << trained.output;
}

TEST_F(ProgramData, AFlippedBitOfTheDataOrTheTokenizerEndsAResume) {
  train("run", {"train.steps=2"});
  std::string bin = read_file(path("train.bin"));
  bin[bin.size() / 2] ^= 1;
  write_file(path("train.bin"), bin);
  for (const int ranks : {0, 2}) {
    const ProgramResult result = spanwise({"train", "run"}, {"train.steps=8"}, ranks);
    EXPECT_NE(result.exit_code, 0) << result.output;
    EXPECT_NE(result.output.find("train.bin is damaged"), std::string::npos) << result.output;
  }
}

TEST_F(ProgramData, ARequestToEndLeavesNothingOfAPreparation) {
  std::string text;
  while (text.size() < (48 << 20)) text += "a line of some document of this size\n---\n";
  write_file(path("large.txt"), text);
  RunningProgram program(
      {"data", "prepare", "--output", "x", "--separator", "---", "--threads", "1", "large.txt"},
      {.directory = path("")});
  while (program.running() && !fs::exists(path("x.bin.partial"))) usleep(1000);
  program.signal(RunningProgram::kStarter, SIGTERM);
  const ProgramResult result = program.wait();
  EXPECT_EQ(result.exit_code, 128 + SIGTERM) << result.output;
  for (const char* left : {"x.bin.partial", "x.bin", "x.idx", "x.meta.json"})
    EXPECT_FALSE(fs::exists(path(left)));
}

TEST_F(ProgramData, ARequestToEndIsHeardWhileStandardInputIsSilent) {
  int pipe[2];
  ASSERT_EQ(::pipe2(pipe, O_CLOEXEC), 0);
  RunningProgram program({"data", "prepare", "--output", "x", "-"},
                         {.directory = path(""), .standard_input = pipe[0]});
  while (program.running() && !fs::exists(path("x.bin.partial"))) usleep(1000);
  EXPECT_EQ(::write(pipe[1], "text\n", 5), 5);
  program.signal(RunningProgram::kStarter, SIGTERM);
  const ProgramResult result = program.wait();
  EXPECT_EQ(result.exit_code, 128 + SIGTERM) << result.output;
  for (const char* left : {"x.bin.partial", "x.bin", "x.idx", "x.meta.json"})
    EXPECT_FALSE(fs::exists(path(left)));
  ::close(pipe[0]);
  ::close(pipe[1]);
}

TEST_F(ProgramData, TrainingDataCutWhileItIsUsedIsNamed) {
  RunningProgram program({"train", "config.textproto", "--set", "train.steps=100000", "--set", "run.dir=run"},
                         {.directory = path("")});
  ASSERT_TRUE(program.prints("step")) << program.output();
  fs::resize_file(path("train.bin"), 100);
  const ProgramResult result = program.wait();
  EXPECT_EQ(result.exit_code, 1) << result.output;
  EXPECT_NE(result.output.find("train.bin"), std::string::npos) << result.output;
}

}  // namespace
}  // namespace spanwise::testing
