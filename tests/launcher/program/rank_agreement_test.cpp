// Ranks that were not started alike end at once, all of them, in one sentence that names the rank, what it
// has and what rank 0 has; what may differ does not stop them.

#include "core/check.h"
#include "core/file_io.h"
#include "tests/launcher/program/tiny_run.h"

namespace spanwise::testing {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMark = "spanwise: error: ";

class RankAgreement : public TinyRunTest {
 protected:
  using Words = std::vector<std::string>;

  /// Rank 0 runs `first`, rank 1 `second`.
  ProgramResult run(const Words& first, Words second) const {
    second.insert(second.begin(), "{program}");
    return run_spanwise(first, {.ranks = 1, .other_rank = second, .directory = path("")});
  }
  ProgramResult train_with(const Words& settings_of_rank_1, Words both = {}) const {
    both.insert(both.begin(), {"train", "config.textproto", "--set", "train.steps=2"});
    Words second = both;
    for (const std::string& setting : settings_of_rank_1) second.insert(second.end(), {"--set", setting});
    return run(both, second);
  }

  void copy_directory_for_rank_1() {
    fs::create_directory(path("elsewhere"));
    for (const char* name : {"run", "train.bin", "train.idx", "valid.bin", "valid.idx", "config.textproto"})
      fs::copy(path(name), path("elsewhere") / name, fs::copy_options::recursive);
  }
  /// The same command on both, rank 1 in the directory `elsewhere`.
  ProgramResult run_elsewhere(const Words& command) const {
    Words second{"env", "-C", path("elsewhere").string(), "{program}"};
    second.insert(second.end(), command.begin(), command.end());
    return run_spanwise(command, {.ranks = 1, .other_rank = second, .directory = path("")});
  }

  void expect_refused(const ProgramResult& result, const Words& named) {
    EXPECT_FALSE(result.timed_out);
    EXPECT_NE(result.exit_code, 0) << result.output;
    EXPECT_LT(result.seconds, 60) << "parallel.timeout_seconds is 600";
    EXPECT_EQ(result.left_behind, 0);
    const size_t begin = result.output.find(kMark);
    ASSERT_NE(begin, std::string::npos) << result.output;
    EXPECT_EQ(result.output.find(kMark, begin + 1), std::string::npos) << result.output;
    const std::string sentence = result.output.substr(begin, result.output.find('\n', begin) - begin);
    for (const std::string& part : named)
      EXPECT_NE(sentence.find(part), std::string::npos) << part << " in " << result.output;
  }

  /// A copy of a dataset or other file pair under another directory, with `change` made to its .bin.
  void copy_data(const std::string& from, const std::string& to, size_t changed_byte = std::string::npos) {
    fs::create_directories(path(to).parent_path());
    std::string bin = read_file(path(from + ".bin"));
    if (changed_byte < bin.size()) bin[changed_byte] ^= 1;
    write_file(path(to + ".bin"), bin);
    write_file(path(to + ".idx"), read_file(path(from + ".idx")));
  }
};

TEST_F(RankAgreement, EverySettingThatChangesTheNumbersIsCompared) {
  for (const auto& [setting, named] : std::vector<std::pair<std::string, std::string>>{
           {"optimizer.learning_rate=0.1", "optimizer.learning_rate 0.1 where rank 0 has 0.005"},
           {"run.seed=2", "run.seed 2 where rank 0 has 1"},
           {"train.global_batch=8", "train.global_batch 8 where rank 0 has 4"},
           {"train.sequence_length=16", "train.sequence_length 16 where rank 0 has 32"},
           {"optimizer.clip_norm=0.5", "optimizer.clip_norm 0.5 where rank 0 has 1"},
           {"model.layer.N.attention.rope_theta=5000",
            "model.layer.N.attention.rope_theta 5000 where rank 0 has 10000"},
           {"parallel.sequence=2", "parallel.sequence 2 where rank 0 has 1"},
           {"data.train={path: 'train' weight: 2}", "data.train[0].weight 2 where rank 0 has 1"},
           {"data.validation=", "data.validation empty where rank 0 has given"},
       }) {
    SCOPED_TRACE(setting);
    const auto before = files_below(path(""));
    expect_refused(train_with({setting}), {"Rank 1 has " + named, "same config"});
    EXPECT_TRUE(files_below(path("")) == before) << "files have changed";
  }
}

TEST_F(RankAgreement, SeveralDifferencesAreCountedAndTheFirstIsNamed) {
  expect_refused(train_with({"run.seed=2", "train.steps=3", "optimizer.beta1=0.8"}),
                 {"Rank 1 has run.seed 2 where rank 0 has 1 (2 other settings differ)"});
}

TEST_F(RankAgreement, AnotherVerbOptionOrHelpIsRefused) {
  train("run");
  const Words evaluates{"eval", "run"};
  expect_refused(run(evaluates, {"train", "config.textproto"}),
                 {"Rank 1 has the verb 'train' where rank 0 has 'eval'"});
  expect_refused(run(evaluates, {"eval", "--help"}), {"Rank 1 has a command that asks for help"});
  expect_refused(run(evaluates, {"eval", "run", "--sequences", "2"}),
                 {"Rank 1 has --sequences 2 where rank 0 has nothing"});
  expect_refused(run(evaluates, {"eval", "run", "--data", "train"}), {"Rank 1 has --data given"});
  expect_refused(run(evaluates, {"eval", "run", "--checkpoint", "run/checkpoints/step_00000008"}),
                 {"Rank 1 has --checkpoint run/checkpoints/step_00000008 where rank 0 has nothing"});
}

TEST_F(RankAgreement, DataAndTokenizersAreComparedByWhatTheyHold) {
  copy_data("train", "same/train");
  copy_data("train", "other/train", 40);
  copy_data("train", "renamed/tokens");
  copy_data("valid", "other/valid", 40);
  expect_refused(train_with({"data.train={path: 'other/train'}"}),
                 {"Rank 1 has data.train[0] 'train' of", "(other/train) where rank 0 has", "same files"});
  expect_refused(train_with({"data.train={path: 'renamed/tokens'}"}),
                 {"Rank 1 has data.train[0] 'tokens' of", "where rank 0 has 'train' of"});
  expect_refused(train_with({"data.validation=other/valid"}), {"Rank 1 has validation data 'valid' of"});
  const ProgramResult free =
      train_with({"data.train={path: 'same/train'}", "run.dir=elsewhere", "train.threads=2"});
  EXPECT_EQ(free.exit_code, 0) << free.output;
  EXPECT_FALSE(fs::exists(path("elsewhere"))) << "only rank 0 writes";

  expect_refused(run({"eval", "run"}, {"eval", "run", "--set", "data.validation=other/valid"}),
                 {"Rank 1 has validation data 'valid' of", "(other/valid) where rank 0 has"});
}

TEST_F(RankAgreement, DataThatDiffersFarFromItsEndsIsRefused) {
  std::string text = tiny_text(5000, 3);
  write_file(path("long.txt"), text);
  text[text.find('a', text.size() / 2)] = 'b';
  fs::create_directory(path("other"));
  write_file(path("other/long.txt"), text);
  for (const std::string prefix : {"long", "other/long"}) {
    const ProgramResult result =
        spanwise({"data", "prepare", "--output", prefix, "--threads", "1", prefix + ".txt"});
    ASSERT_EQ(result.exit_code, 0) << result.output;
  }
  ASSERT_GT(fs::file_size(path("long.bin")), size_t{3} << 16) << "the fingerprint alone would see it";
  const auto trains = [](const std::string& data) {
    return Words{"train", "config.textproto", "--set", fmt::format("data.train={{path: '{}'}}", data)};
  };
  expect_refused(run(trains("long"), trains("other/long")),
                 {"Rank 1 has data.train[0] 'long' of", "and checksum", "(other/long) where rank 0 has"});
  // A table that one rank lacks is said, and switches nothing off for the other datasets.
  copy_data("valid", "elsewhere/valid");
  expect_refused(run(trains("long"), {"train", "config.textproto", "--set", "data.train={path: 'other/long'}",
                                      "--set", "data.validation=elsewhere/valid"}),
                 {"Rank 1 has data.train[0] 'long' of", "and checksum"});
  const ProgramResult said = train_with({"data.validation=elsewhere/valid"});
  EXPECT_EQ(said.exit_code, 0) << said.output;
  EXPECT_NE(said.output.find("a rank has no table of checksums of valid: "), std::string::npos)
      << said.output;
}

TEST_F(RankAgreement, ATokenizerOfAnotherContentIsRefused) {
  const std::string model = SPANWISE_SOURCE_DIR "/configs/quickstart/tokenizer.model";
  std::string other = read_file(model);
  write_file(path("copy.model"), other);
  // A byte of a piece's text: the model loads as well.
  const size_t at = other.find("ing");
  ASSERT_NE(at, std::string::npos);
  other[at] ^= 32;
  write_file(path("other.model"), other);
  // The data says that bytes are its tokens.
  for (const char* name : {"train.meta.json", "valid.meta.json"}) fs::remove(path(name));
  const Words both{"--set", "data.tokenizer.kind=SENTENCEPIECE", "--set", "data.tokenizer.model=" + model};
  expect_refused(train_with({"data.tokenizer.model=other.model"}, both),
                 {"Rank 1 has data.tokenizer with fingerprint ", "(other.model) where rank 0 has"});
  const ProgramResult copied = train_with({"data.tokenizer.model=copy.model"}, both);
  EXPECT_EQ(copied.exit_code, 0) << copied.output;
}

// Rank 1 works in a directory of its own: what it sees under the same names is another machine's.
TEST_F(RankAgreement, RankZeroChoosesTheCheckpointForAll) {
  train("run");
  copy_directory_for_rank_1();
  const std::string config = read_file(path("run/config.textproto"));
  train("elsewhere/run", {"train.steps=9"});
  write_file(path("elsewhere/run/config.textproto"), config);
  const auto value = [](const std::string& output) { return output.substr(output.find("tokens  ")); };
  const ProgramResult alone = spanwise({"eval", "run"});
  const ProgramResult both = run_elsewhere({"eval", "run"});
  EXPECT_EQ(both.exit_code, 0) << both.output;
  EXPECT_NE(both.output.find("step_00000008"), std::string::npos) << both.output;
  EXPECT_EQ(value(both.output), value(alone.output));
}

TEST_F(RankAgreement, OtherRanksNeedNotSeeTheCheckpoint) {
  train("run");
  copy_directory_for_rank_1();
  fs::remove_all(path("elsewhere/run/checkpoints"));
  const auto value = [](const std::string& output) { return output.substr(output.find("tokens  ")); };
  const ProgramResult alone = spanwise({"eval", "run"});
  const ProgramResult blind = run_elsewhere({"eval", "run"});
  EXPECT_EQ(blind.exit_code, 0) << blind.output;
  EXPECT_EQ(value(blind.output), value(alone.output));
  const ProgramResult named = run_elsewhere({"eval", "run/checkpoints/step_00000008/"});
  EXPECT_EQ(named.exit_code, 0) << named.output;
  EXPECT_EQ(value(named.output), value(alone.output));
  // What another machine has under the same name is not read.
  train("other", {"run.seed=2"});
  fs::rename(path("other/checkpoints"), path("elsewhere/run/checkpoints"));
  EXPECT_EQ(value(run_elsewhere({"eval", "run"}).output), value(alone.output));
  const ProgramResult trained = run_elsewhere({"train", "run", "--set", "train.steps=9"});
  EXPECT_EQ(trained.exit_code, 0) << trained.output;
  EXPECT_NE(trained.output.find("resumed step 8"), std::string::npos) << trained.output;
}

TEST_F(RankAgreement, AnotherProcessorsBlasIsAllowedAndSaid) {
  const Words train{"train", "config.textproto", "--set", "train.steps=1"};
  Words second{"env", "OPENBLAS_CORETYPE=Nehalem", "{program}"};
  second.insert(second.end(), train.begin(), train.end());
  const ProgramResult result = run_spanwise(train, {.ranks = 1, .other_rank = second, .directory = path("")});
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_NE(result.output.find("Nehalem kernels on rank 1"), std::string::npos) << result.output;
}

}  // namespace
}  // namespace spanwise::testing
