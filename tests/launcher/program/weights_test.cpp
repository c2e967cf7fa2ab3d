// What gives weights their meaning stays with them: settings, tokenizer and where a run is.

#include "core/check.h"
#include "core/file_io.h"
#include "launcher/checkpoint/checkpoint_dir.h"
#include "launcher/checkpoint/manifest_file.h"
#include "launcher/checkpoint/open_checkpoint.h"
#include "tests/launcher/program/tiny_run.h"

namespace spanwise::testing {
namespace {

namespace fs = std::filesystem;

class ProgramWeights : public TinyRunTest {
 protected:
  ProgramResult refused(std::vector<std::string> arguments, const std::vector<std::string>& settings,
                        const std::vector<std::string>& said, int ranks = 0) {
    const auto before = files_below(path(""));
    const ProgramResult result = spanwise(std::move(arguments), settings, ranks);
    EXPECT_NE(result.exit_code, 0) << result.output;
    for (const std::string& part : said) expect_said(result, part);
    EXPECT_TRUE(files_below(path("")) == before) << "files have changed";
    return result;
  }
  ProgramResult accepted(std::vector<std::string> arguments, const std::vector<std::string>& settings = {},
                         const std::vector<std::string>& said = {}) {
    const ProgramResult result = spanwise(std::move(arguments), settings);
    EXPECT_EQ(result.exit_code, 0) << result.output;
    for (const std::string& part : said) expect_said(result, part);
    return result;
  }
  static void expect_said(const ProgramResult& result, const std::string& part) {
    EXPECT_NE(result.output.find(part), std::string::npos) << part << " in " << result.output;
  }
  /// As a checkpoint of format 1 is.
  void make_old(const fs::path& directory) {
    Manifest manifest = read_manifest(directory);
    manifest.set_format_version(1);
    manifest.clear_settings();
    fs::remove(directory / kManifestName);
    write_manifest_file(directory / kManifestName, manifest);
  }
};

// Each leaves every tensor its shape.
TEST_F(ProgramWeights, AModelOfEqualShapesButAnotherMeaningIsRefusedWhereverItIsRead) {
  const std::vector<std::string> common = {"model.layer.L={linear_attention {num_heads: 2 feature_map: ELU}}",
                                           "train.steps=1"};
  train("run", common);
  for (const auto& [setting, path] : {
           std::pair{"model.layer.L.linear_attention.feature_map=RELU",
                     "model.layer.L.linear_attention.feature_map ELU"},
           {"model.layer.N.attention.num_heads=4", "model.layer.N.attention.num_heads 2"},
           {"model.layer.N.attention.window=5", "model.layer.N.attention.window 0"},
           {"model.layer.N.attention.rope_theta=500", "model.layer.N.attention.rope_theta 10000"},
           {"model.norm_eps=1e-3", "model.norm_eps 1e-06"},
           {"run.init_seed=9", "run.init_seed 1"},
       }) {
    SCOPED_TRACE(setting);
    std::vector<std::string> settings = common;
    settings.insert(settings.end(), {setting, "run.dir=run", "train.steps=2"});
    refused({"train", "config.textproto"}, settings, {path, "checkpoint.accept_changed"});
    if (std::string_view(setting).starts_with("run.")) continue;
    refused({"eval", "run"}, {setting}, {path});
    refused({"generate", "run"}, {setting}, {path});
  }
  refused({"train", "run"}, {"train.steps=2", "model.norm_eps=1e-3"}, {"model.norm_eps 1e-06"}, 2);
  // What changes speed alone, and what a 0 stands for, are not differences.
  accepted({"eval", "run"}, {"model.chunk_size=16", "model.layer.N.attention.num_kv_heads=2"});
}

TEST_F(ProgramWeights, AChangeThatIsMeantIsNamedAndSaid) {
  train("run", {"train.steps=1"});
  const std::vector<std::string> change = {"model.norm_eps=1e-3", "checkpoint.accept_changed=model.norm_eps"};
  accepted({"eval", "run"}, change,
           {"model.norm_eps is 0.001; run/checkpoints/step_00000001 was trained with 1e-06"});
  std::vector<std::string> on = change;
  on.push_back("train.steps=2");
  accepted({"train", "run"}, on, {"accepted by checkpoint.accept_changed"});
  // The new checkpoint has the new setting.
  accepted({"eval", "run"}, {"model.norm_eps=1e-3", "checkpoint.accept_changed="});
  // It is not accepted for ever, even where the setting becomes the run's.
  EXPECT_EQ(spanwise({"train", "run", "--save-config"}, change).exit_code, 0);
  refused({"train", "run"}, {"model.norm_eps=1e-4", "train.steps=3"}, {"model.norm_eps 0.001"});
  refused({"eval", "run"}, {"model.norm_eps=1e-3", "checkpoint.accept_changed=model.norm_epz"},
          {"'model.norm_epz' is no setting", "did you mean 'model.norm_eps'?"});
}

TEST_F(ProgramWeights, ACheckpointWithoutSettingsSaysSoInOneLineAndIsWrittenAnew) {
  train("run", {"train.steps=1"});
  make_old(checkpoint("run"));
  accepted({"eval", "run"}, {"model.norm_eps=1e-3"},
           {"step_00000001 is older than the record of model settings"});
  accepted({"train", "run"}, {"train.steps=2"}, {"older than the record of model settings"});
  EXPECT_EQ(read_manifest(checkpoint("run")).format_version(), kCheckpointFormatVersion);
  EXPECT_GT(read_manifest(checkpoint("run")).settings_size(), 10);
}

TEST_F(ProgramWeights, InitialisationAndDataOrderHaveSeedsOfTheirOwn) {
  const auto first_loss = [&](const std::string& run) { return read_metrics(path(run)).front().loss; };
  train("both", {"run.seed=5", "train.steps=1"});
  train("apart", {"run.init_seed=5", "run.data_seed=5", "train.steps=1"});
  train("init", {"run.seed=5", "run.init_seed=6", "train.steps=1"});
  train("data", {"run.seed=5", "run.data_seed=6", "train.steps=1"});
  EXPECT_EQ(first_loss("both"), first_loss("apart"));
  EXPECT_NE(first_loss("both"), first_loss("init"));
  EXPECT_NE(first_loss("both"), first_loss("data"));
  EXPECT_NE(first_loss("init"), first_loss("data"));
  EXPECT_EQ(read_manifest(checkpoint("data")).seed(), 6);
  refused({"train", "data"}, {"run.data_seed=7", "train.steps=2"}, {"seed 6"});
}

TEST_F(ProgramWeights, AChangedScheduleIsSaidWithBothRates) {
  train("run", {"optimizer.schedule_steps=", "train.steps=4"});
  accepted({"train", "run"}, {"train.steps=8"},
           {"step 5 has rate 0.00", "(COSINE to step 8, peak 0.005), which was 0.0005 (COSINE to step 4"});
  const ProgramResult again = accepted({"train", "run"}, {"train.steps=8"});
  EXPECT_EQ(again.output.find("schedule has changed"), std::string::npos) << again.output;
}

TEST_F(ProgramWeights, ANewRunStartsFromTheWeightsOfAnother) {
  train("first", {"train.steps=4", "train.eval_sequences="});
  accepted({"eval", "first"});
  // Longer sequences, another order, other steps; the start is the first run's weights.
  const std::vector<std::string> settings = {"checkpoint.init_from=first", "train.sequence_length=48",
                                             "train.global_batch=2", "run.data_seed=3", "train.steps=2"};
  const ProgramResult result = train("second", settings);
  expect_said(result, "starts from the weights of first/checkpoints/step_00000004");
  const Manifest manifest = read_manifest(checkpoint("second"));
  EXPECT_EQ(manifest.step(), 2);
  EXPECT_EQ(manifest.samples_seen(), 4);
  EXPECT_EQ(manifest.init_from(), "first/checkpoints/step_00000004");
  // A checkpoint names the same weights as its run; on ranks and ZeRO, the same numbers.
  std::vector<std::string> by_step = settings;
  by_step[0] += "/checkpoints/step_00000004";
  by_step.push_back("parallel.zero_stage=3");
  train("third", by_step, 2);
  EXPECT_NEAR(read_metrics(path("third")).front().loss, read_metrics(path("second")).front().loss, 1e-10);
  // It goes on from its own.
  std::vector<std::string> on = settings;
  on.back() = "train.steps=3";
  const ProgramResult resumed = train("second", on);
  expect_said(resumed, "resumed step 2 from second");
  EXPECT_EQ(resumed.output.find("no effect"), std::string::npos) << resumed.output;
  on[0] = "checkpoint.init_from=third";
  accepted({"train", "second"}, on,
           {"began with the weights of first/checkpoints/step_00000004: checkpoint.init_from third has no"});
  refused({"train", "first"}, {"checkpoint.init_from=second", "train.steps=5"},
          {"began with random weights"});
  refused({"train", "config.textproto"}, {"run.dir=new", "checkpoint.init_from=first", "model.norm_eps=1e-3"},
          {"model.norm_eps 1e-06"});
  refused({"train", "config.textproto"}, {"run.dir=new", "checkpoint.init_from=nowhere"}, {"nowhere"});
}

TEST_F(ProgramWeights, ACheckpointStandsWhereARunDoes) {
  train("run", {"train.steps=2", "checkpoint.every=1"});
  accepted({"eval", "run/checkpoints/step_00000001"}, {}, {"step_00000001"});
  accepted({"generate", "run/checkpoints/step_00000001/"});
  refused({"train", "run/checkpoints/step_00000001"}, {"train.steps=3"}, {"not the newest", "init_from"});
  accepted({"train", "run/checkpoints/step_00000002"}, {"train.steps=3"}, {"resumed step 2"});
  fs::copy(path("run/checkpoints/step_00000003"), path("alone"), fs::copy_options::recursive);
  refused({"eval", "alone"}, {}, {"alone is a checkpoint", "--checkpoint"});
}

TEST_F(ProgramWeights, ACheckpointWhoseReplacementWasCutShortIsGoneOnFrom) {
  train("run", {"train.steps=2", "checkpoint.every=1"});
  // Killed between the renames of a second save of step 2.
  fs::rename(path("run/checkpoints/step_00000002"), path("run/checkpoints/.old-step_00000002"));
  accepted({"train", "run"}, {"train.steps=3"}, {"resumed step 2"});
}

TEST_F(ProgramWeights, ARunMovesToAnotherMachineWithItsTokenizer) {
  accepted({"data", "prepare", "--tokenizer", "far/away.model", "--train-tokenizer", "300", "--output",
            "pieces", "text.txt"});
  train("run", {"data.tokenizer={kind: SENTENCEPIECE model: 'far/away.model'}", "data.train={path: 'pieces'}",
                "data.validation=pieces", "train.steps=1"});
  EXPECT_EQ(read_file(path("run/tokenizer.model")), read_file(path("far/away.model")));
  fs::rename(path("far"), path("gone"));
  fs::create_directory(path("elsewhere"));
  fs::rename(path("run"), path("elsewhere/moved"));
  accepted({"generate", "elsewhere/moved"});
  accepted({"eval", "elsewhere/moved"});
  accepted({"train", "elsewhere/moved"}, {"train.steps=2"}, {"resumed step 1"});
  EXPECT_FALSE(fs::exists(path("run")));
  // Another tokenizer with as many pieces is another model.
  write_file(path("other.txt"), tiny_text(300, 7));
  accepted({"data", "prepare", "--tokenizer", "other.model", "--train-tokenizer", "300", "--output", "other",
            "other.txt"});
  refused({"generate", "elsewhere/moved"}, {"data.tokenizer.model=other.model"},
          {"data.tokenizer.model", "CRC-32C"});
}

TEST_F(ProgramWeights, TheRunsTokenizerIsNeverReplacedInSilence) {
  for (const auto& [name, seed] : {std::pair{"first", 1}, {"second", 2}}) {
    const std::string text = fmt::format("{}.txt", name);
    write_file(path(text), tiny_text(300, uint64_t(seed)));
    accepted({"data", "prepare", "--tokenizer", fmt::format("{}.model", name), "--train-tokenizer", "300",
              "--output", name, text});
  }
  fs::remove(path("first.meta.json"));  // the data does not name its tokenizer
  const std::string first = read_file(path("first.model")), second = read_file(path("second.model"));
  train("run", {"data.tokenizer={kind: SENTENCEPIECE model: 'first.model'}", "data.train={path: 'first'}",
                "data.validation=", "train.steps=1"});
  const fs::path copy = path("run/tokenizer.model");
  const std::vector<std::string> other = {"data.tokenizer.model=second.model",
                                          "checkpoint.accept_changed=data.tokenizer.model"};
  accepted({"train", "run"}, other, {"the tokenizer second.model is another than run/tokenizer.model"});
  EXPECT_EQ(read_file(copy), first);
  fs::remove(path("first.model"));
  accepted({"train", "run"}, {"train.steps=1"});
  // Where it is asked for, the former one stays.
  EXPECT_EQ(spanwise({"train", "run", "--save-config"}, other).exit_code, 0);
  EXPECT_EQ(read_file(copy), second);
  EXPECT_EQ(read_file(path("run/tokenizer.model.before-step_00000001-1")), first);
}

TEST_F(ProgramWeights, ARunDirectoryWithoutATokenizerOfItsOwnSaysSo) {
  accepted({"data", "prepare", "--tokenizer", "own.model", "--train-tokenizer", "300", "--output", "pieces",
            "text.txt"});
  train("run", {"data.tokenizer={kind: SENTENCEPIECE model: 'own.model'}", "data.train={path: 'pieces'}",
                "data.validation=", "train.steps=1"});
  fs::remove(path("run/tokenizer.model"));
  const std::string line =
      "run has no tokenizer.model of its own, as a run of an older version: own.model is read";
  accepted({"generate", "run"}, {}, {line});
  accepted({"train", "run"}, {}, {line + ", and copied to run/tokenizer.model"});
  EXPECT_EQ(read_file(path("run/tokenizer.model")), read_file(path("own.model")));
  EXPECT_EQ(accepted({"generate", "run"}).output.find("of its own"), std::string::npos);
}

}  // namespace
}  // namespace spanwise::testing
