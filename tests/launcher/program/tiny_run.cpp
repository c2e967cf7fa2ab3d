#include "tests/launcher/program/tiny_run.h"

#include <charconv>
#include <cmath>

#include "core/check.h"
#include "core/file_io.h"
#include "core/rng.h"
#include "launcher/checkpoint/checkpoint_dir.h"

namespace spanwise::testing {

namespace fs = std::filesystem;

namespace {

// Rows share documents and have different numbers of targets, so that a mean over ranks would not be the mean
// over tokens. The MLP is narrow because OpenMP's threads would cost more than they bring.
constexpr const char* kConfig = R"(
run { dir: "run" }
train { steps: 8 sequence_length: 32 global_batch: 4 precision: F64 threads: 1 eval_sequences: 8 }
model {
  hidden_size: 32 num_layers: 4 intermediate_size: 48 chunk_size: 8
  layer { letter: "L" gated_delta_net { num_heads: 2 } swiglu {} }
  layer { letter: "N" attention { num_heads: 2 } swiglu {} }
}
data { train { path: "train" } validation: "valid" }
optimizer { learning_rate: 5e-3 warmup_steps: 2 schedule_steps: 8 }
)";

double number(std::string_view line, std::string_view key) {
  const size_t at = line.find(fmt::format("\"{}\":", key));
  double value = NAN;
  if (at == line.npos) return value;
  const char* first = line.data() + at + key.size() + 3;
  std::from_chars(first, line.data() + line.size(), value);
  return value;
}

}  // namespace

std::vector<StepRecord> read_metrics(const fs::path& run) {
  std::vector<StepRecord> records;
  const std::string content = read_file(run / "metrics.jsonl");
  for (size_t begin = 0, end = 0; (end = content.find('\n', begin)) != content.npos; begin = end + 1) {
    const std::string_view line(content.data() + begin, end - begin);
    if (number(line, "step") == 0) continue;
    records.push_back({.step = int64_t(number(line, "step")),
                       .loss = number(line, "loss"),
                       .grad_norm = number(line, "grad_norm"),
                       .lr = number(line, "lr")});
  }
  return records;
}

std::map<std::string, std::string> files_below(const fs::path& directory) {
  std::map<std::string, std::string> files;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(directory)) {
    files[entry.path().string()] = entry.is_regular_file() ? read_file(entry.path()) : "";
  }
  return files;
}

std::string tiny_text(int num_sentences, uint64_t seed) {
  const char* const kNouns[] = {"cat", "dog", "old miller", "queen", "young sailor", "river"};
  const char* const kVerbs[] = {"sees", "follows", "never forgets", "sings to"};
  const RandomStream random(seed, "text");
  uint64_t draw = 0;
  const auto one_of = [&](const auto& words) { return words[random.below(draw++, std::size(words))]; };
  std::string text;
  for (int i = 0; i < num_sentences; ++i) {
    text += fmt::format("the {} {} the {}.", one_of(kNouns), one_of(kVerbs), one_of(kNouns));
    text += random.below(draw++, 3) == 0 ? "\n---\n" : " ";
  }
  return text;
}

void TinyRunTest::SetUp() {
  write_file(path("text.txt"), tiny_text(400, 1));
  write_file(path("config.textproto"), kConfig);
  const ProgramResult result = spanwise({"data", "prepare", "--output", "text", "--separator", "---",
                                         "--holdout-documents", "0.1", "--threads", "1", "text.txt"});
  ASSERT_EQ(result.exit_code, 0) << result.output;
  for (const char* part : {"train", "valid"}) {
    for (const char* kind : {".bin", ".idx", ".meta.json"}) {
      fs::rename(path(fmt::format("text_{}{}", part, kind)), path(fmt::format("{}{}", part, kind)));
    }
  }
}

ProgramResult TinyRunTest::spanwise(std::vector<std::string> arguments,
                                    const std::vector<std::string>& settings, int ranks) const {
  for (const std::string& setting : settings) arguments.insert(arguments.end(), {"--set", setting});
  ProgramResult result = run_spanwise(arguments, {.ranks = ranks, .directory = dir_.path()});
  EXPECT_FALSE(result.timed_out) << result.output;
  EXPECT_EQ(result.left_behind, 0) << result.output;
  return result;
}

ProgramResult TinyRunTest::train(const std::string& run, std::vector<std::string> settings, int ranks) const {
  settings.push_back("run.dir=" + run);
  ProgramResult result = spanwise({"train", "config.textproto"}, settings, ranks);
  EXPECT_EQ(result.exit_code, 0) << result.output;
  return result;
}

fs::path TinyRunTest::checkpoint(const std::string& run) const {
  const auto newest = newest_checkpoint(path(run) / "checkpoints");
  EXPECT_TRUE(newest) << run << " has no checkpoint";
  return newest.value_or("");
}

const std::vector<MixerCase>& mixer_cases() {
  static const std::vector<MixerCase> cases = {
      {"LinearAttention", {"model.layer.L={linear_attention {num_heads: 2}}"}},
      {"Lightning", {"model.layer.L={lightning {num_heads: 2}}"}},
      {"Retention", {"model.layer.L={retention {num_heads: 2}}"}},
      {"Mamba2", {"model.layer.L={mamba2 {num_heads: 2 state_size: 16}}"}},
      {"DeltaNet", {"model.layer.L={delta_net {num_heads: 2 allow_neg_eigval: true}}"}},
      {"GatedDeltaNet", {}},
  };
  return cases;
}

}  // namespace spanwise::testing
