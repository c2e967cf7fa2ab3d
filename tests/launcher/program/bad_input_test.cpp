// Whatever is wrong outside the program ends it on every rank, soon, in one sentence that names the culprit,
// and leaves every file as it was.

#include "core/check.h"
#include "core/file_io.h"
#include "tests/launcher/program/tiny_run.h"

namespace spanwise::testing {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMark = "spanwise: error: ";

int count(const std::string& text, const std::string& part) {
  int times = 0;
  for (size_t at = 0; (at = text.find(part, at)) != text.npos; at += part.size()) ++times;
  return times;
}

/// What the program said of its error, without mpirun's words on MPI_Abort.
std::string sentence(const std::string& output) {
  const size_t begin = output.find(kMark);
  if (begin == output.npos) return "no error in: " + output;
  return output.substr(begin, output.find('\n', begin) - begin);
}

/// One changed byte in the middle.
void damage(const fs::path& file) {
  std::string content = read_file(file);
  content[content.size() / 2] ^= 1;
  write_file(file, content);
}

struct BadInput {
  const char* what;
  std::vector<std::string> arguments;
  std::vector<std::string> named;  ///< parts of the sentence
};

BadInput bad_setting(const char* setting, std::vector<std::string> named) {
  return {setting, {"train", "config.textproto", "--set", setting}, std::move(named)};
}

class ProgramBadInput : public TinyRunTest {
 protected:
  void expect_refused(const BadInput& bad, const std::vector<int>& rank_counts = {0, 2}) {
    for (const int ranks : rank_counts) {
      SCOPED_TRACE(fmt::format("{} on {} ranks", bad.what, ranks));
      const auto before = files_below(path(""));
      const ProgramResult result = spanwise(bad.arguments, {}, ranks);
      EXPECT_NE(result.exit_code, 0) << result.output;
      EXPECT_LT(result.seconds, 10);
      EXPECT_EQ(count(result.output, kMark), 1) << result.output;
      for (const std::string& part : bad.named) {
        EXPECT_NE(sentence(result.output).find(part), std::string::npos) << part << " in " << result.output;
      }
      EXPECT_TRUE(files_below(path("")) == before) << "files have changed";
    }
  }
  void expect_refused_by_train(const char* setting, std::vector<std::string> named) {
    expect_refused(bad_setting(setting, std::move(named)));
  }

  std::string content(const std::string& name) const { return read_file(path(name)); }
  /// A copy of the training data whose files `change` may spoil.
  template <class Change>
  void write_spoilt_data(const std::string& name, Change change) {
    std::string bin = content("train.bin"), idx = content("train.idx");
    change(bin, idx);
    write_file(path(name + ".bin"), bin);
    write_file(path(name + ".idx"), idx);
  }
};

// .idx: 9 bytes of magic, 8 of version, 1 of dtype, then the two counts.
constexpr size_t kNumSequencesAt = 18, kNumDocumentsAt = 26;

TEST_F(ProgramBadInput, DataThatIsMissingOrDamaged) {
  write_spoilt_data("short", [](std::string& bin, std::string&) { bin.resize(bin.size() / 2); });
  write_spoilt_data("sequences", [](std::string&, std::string& idx) { ++idx[kNumSequencesAt]; });
  write_spoilt_data("documents", [](std::string&, std::string& idx) { --idx[kNumDocumentsAt]; });
  write_spoilt_data("magic", [](std::string&, std::string& idx) { idx[0] = 'X'; });
  write_spoilt_data("empty", [](std::string&, std::string& idx) { idx.clear(); });
  expect_refused_by_train("data.train={path: 'nowhere'}", {"nowhere.bin", "No such file"});
  expect_refused_by_train("data.train={path: 'short'}", {"short.bin", "truncated"});
  expect_refused_by_train("data.train={path: 'sequences'}", {"sequences.idx"});
  expect_refused_by_train("data.train={path: 'documents'}", {"documents.idx"});
  expect_refused_by_train("data.train={path: 'magic'}", {"magic.idx"});
  expect_refused_by_train("data.train={path: 'empty'}", {"empty.idx"});
  expect_refused_by_train("data.validation=nowhere", {"nowhere.bin"});
  expect_refused_by_train("train.sequence_length=100000", {"train has", "100000"});
}

TEST_F(ProgramBadInput, TokensBeyondTheVocabulary) {
  // Every token of the held-out data: whichever rank meets it first.
  write_spoilt_data("beyond", [](std::string& bin, std::string&) {
    for (size_t i = 1; i < bin.size(); i += 2) bin[i] = 2;
  });
  train("run");
  expect_refused({"eval", {"eval", "run", "--data", "beyond"}, {"beyond.bin", "token", "vocabulary of 257"}});
  const ProgramResult trained =
      spanwise({"train", "config.textproto"}, {"data.train={path: 'beyond'}", "run.dir=new"}, 2);
  EXPECT_NE(trained.exit_code, 0);
  EXPECT_EQ(count(trained.output, kMark), 1) << trained.output;
  EXPECT_NE(sentence(trained.output).find("beyond.bin"), std::string::npos) << trained.output;
}

TEST_F(ProgramBadInput, ErrorOfOneRankAloneIsHeardAndEndsAll) {
  // Sample 1 of two, rank 1's, from its second token on: the first is rank 0's last label.
  write_spoilt_data("second", [](std::string& bin, std::string&) { bin[2 * 40 + 1] = 2; });
  train("run");
  expect_refused({"one rank's sample",
                  {"eval", "run", "--data", "second", "--sequences", "2"},
                  {"rank 1: ", "second.bin", "position 40"}},
                 {2});
}

TEST_F(ProgramBadInput, TokenizerThatIsMissingOrNone) {
  for (const auto& [model, named] :
       {std::pair{"nowhere.model", "nowhere.model"}, std::pair{"text.txt", "text.txt"}}) {
    expect_refused({model,
                    {"train", "config.textproto", "--set", "data.tokenizer.kind=SENTENCEPIECE", "--set",
                     fmt::format("data.tokenizer.model={}", model)},
                    {named}});
  }
}

TEST_F(ProgramBadInput, CheckpointWithAChangedByteInAnyFile) {
  train("run", {"train.steps=2"});
  for (const char* file : {"model.safetensors", "optimizer.safetensors", "manifest.textproto"}) {
    fs::copy(path("run"), path("spoilt"), fs::copy_options::recursive);
    damage(checkpoint("spoilt") / file);
    expect_refused({file, {"train", "spoilt", "--set", "train.steps=3"}, {file, "damaged", "step_00000002"}});
    if (std::string_view(file) == "optimizer.safetensors") {  // training alone reads it
      EXPECT_EQ(spanwise({"eval", "spoilt"}).exit_code, 0);
    } else {
      expect_refused({file, {"eval", "spoilt"}, {file, "damaged"}});
      expect_refused({file, {"generate", "spoilt"}, {file, "damaged"}}, {0});
    }
    fs::remove_all(path("spoilt"));
  }
  fs::resize_file(checkpoint("run") / "model.safetensors", 1000);
  expect_refused(
      {"cut file", {"train", "run", "--set", "train.steps=3"}, {"model.safetensors", "1000 bytes"}});
}

TEST_F(ProgramBadInput, CheckpointOfAnotherRun) {
  train("run");
  write_spoilt_data("other", [](std::string& bin, std::string&) { bin[0] ^= 1; });
  for (const auto& [setting, named] : {
           std::pair{"model.hidden_size=64", "model.hidden_size 32"},
           {"model.num_layers=8", "model.num_layers 4"},
           {"model.layer.L={delta_net {num_heads: 2}}", "model.layer.L.mixer gated_delta_net"},
           {"train.precision=F32", "train.precision"},
           {"train.sequence_length=16", "sequence length"},
           {"train.global_batch=8", "train.global_batch"},
           {"run.seed=2", "run.init_seed 1"},
           {"data.train={path: 'other'}", "dataset other"},
       }) {
    expect_refused_by_train(setting, {"run/checkpoints/step_00000008", named});
  }
}

TEST_F(ProgramBadInput, DirectoriesThatCannotBeWritten) {
  write_file(path("file"), "in the way");
  expect_refused_by_train("run.dir=/dev/null/x", {"/dev/null/x"});
  expect_refused_by_train("run.dir=file", {"file"});
  expect_refused({"checkpoint.dir",
                  {"train", "config.textproto", "--set", "checkpoint.dir=/dev/null/x"},
                  {"/dev/null/x"}});
}

TEST_F(ProgramBadInput, CheckpointPolicyThatCannotBeKept) {
  expect_refused_by_train("checkpoint.resume=REQUIRED", {"checkpoint.resume", "run/checkpoints"});
  train("run");
  expect_refused_by_train("checkpoint.resume=NEVER", {"checkpoint.resume", "step_00000008"});
}

TEST_F(ProgramBadInput, ConfigThatCannotBeHonoured) {
  write_file(path("typo.textproto"), "run { dir: 'run' }\ntrain {\n  step: 3\n}\n");
  expect_refused(
      {"unknown field", {"train", "typo.textproto"}, {"typo.textproto:3:3:", "'step'", "'steps'"}});
  expect_refused({"no config", {"train", "nowhere.textproto"}, {"nowhere.textproto"}});
  expect_refused_by_train("train.stepz=3", {"stepz", "'steps'"});
  expect_refused_by_train("train.steps", {"--set train.steps"});
  expect_refused_by_train("train.steps=many", {"train.steps", "many"});
  expect_refused_by_train("train.precision=BF16", {"BF16", "CPU"});
  expect_refused_by_train("parallel.tensor=3", {"parallel.tensor 3"});
  expect_refused_by_train("parallel.data=4", {"parallel.data 4"});
  expect_refused_by_train("model.vocab_size=100", {"model.vocab_size 100"});
}

TEST_F(ProgramBadInput, RankCountThatDoesNotDivideTheBatch) {
  BadInput bad = bad_setting("train.micro_batch=1", {"train.global_batch 4", "3 data ranks"});
  expect_refused(bad, {3});
}

TEST_F(ProgramBadInput, CommandLineThatMakesNoSense) {
  expect_refused({"verb", {"trian"}, {"'trian'"}});
  expect_refused({"option", {"train", "config.textproto", "--fast"}, {"'--fast'"}});
  expect_refused({"value", {"eval", "config.textproto", "--sequences"}, {"--sequences"}}, {0});
  expect_refused({"number", {"generate", "config.textproto", "--temperature", "hot"}, {"--temperature hot"}},
                 {0});
  expect_refused({"untrained", {"generate", "config.textproto"}, {"no checkpoint", "run/checkpoints"}}, {0});
  expect_refused({"two ranks", {"generate", "config.textproto"}, {"'generate' runs on one rank"}}, {2});
  expect_refused({"checkpoint", {"checkpoint", "inspect", "nowhere"}, {"nowhere"}}, {0});
  expect_refused({"prepared", {"data", "prepare", "--output", "train", "text.txt"}, {"train.bin", "exists"}},
                 {0});
}

}  // namespace
}  // namespace spanwise::testing
