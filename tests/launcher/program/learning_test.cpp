// Training learns, and eval and generate see what train made.

#include <cmath>

#include "core/check.h"
#include "core/file_io.h"
#include "data/indexed_dataset.h"
#include "data/statistics.h"
#include "models/hf/safetensors.h"
#include "tests/launcher/program/tiny_run.h"

namespace spanwise::testing {
namespace {

/// What stands behind `label` in a program's output, up to the end of the line.
std::string after(const std::string& output, const std::string& label) {
  const size_t at = output.rfind(label);
  if (at == std::string::npos) return "no '" + label + "' in: " + output;
  const size_t begin = output.find_first_not_of(' ', at + label.size());
  return output.substr(begin, output.find('\n', begin) - begin);
}

class ProgramLearning : public TinyRunTest {};

TEST_F(ProgramLearning, LossFallsWellBelowTheUnigramEntropyOnOneAndTwoRanks) {
  const ProgramResult inspected = spanwise({"data", "inspect", "train"});
  const double entropy = std::stod(after(inspected.output, "unigram entropy"));
  EXPECT_NEAR(entropy, unigram_entropy(IndexedDataset(path("train").string())), 1e-3);
  const std::vector<std::string> settings = {"train.precision=F32",          "train.steps=120",
                                             "train.global_batch=8",         "optimizer.learning_rate=1e-2",
                                             "optimizer.schedule_steps=120", "train.eval_sequences=0"};
  for (const int ranks : {0, 2}) {
    const std::string run = fmt::format("run_{}", ranks);
    const ProgramResult trained = train(run, settings, ranks);
    const std::vector<StepRecord> records = read_metrics(path(run));
    ASSERT_EQ(records.size(), 120);
    EXPECT_NEAR(records[0].loss, std::log(257), 0.2);
    double last = 0;
    for (size_t i = 110; i < 120; ++i) last += records[i].loss / 10;
    EXPECT_LT(last, 0.5 * entropy) << trained.output;
  }
}

/// The number behind a key of every line but step 0's.
std::vector<double> column(const std::string& metrics, const std::string& key) {
  std::vector<double> values;
  const std::string quoted = "\"" + key + "\":";
  for (size_t at = 0; (at = metrics.find(quoted, at)) != std::string::npos; ++at)
    values.push_back(std::stod(metrics.substr(at + quoted.size())));
  return values;
}

/// The model's operations in a step on rank 0.
double flops_of_a_step(const std::string& metrics, size_t step) {
  return column(metrics, "tflops").at(step) * 1e12 * column(metrics, "step_ms").at(step) * 1e-3;
}

TEST_F(ProgramLearning, TflopsAreOfTheModelsOperationsInAStepOnOneDevice) {
  train("one", {"train.steps=3"});
  train("evaluated", {"train.steps=3", "train.eval_every=1", "train.activation_checkpointing=true"});
  train("two", {"train.steps=3"}, 2);
  const std::string one = read_file(path("one/metrics.jsonl")),
                    evaluated = read_file(path("evaluated/metrics.jsonl")),
                    two = read_file(path("two/metrics.jsonl"));
  const SafetensorsReader model(checkpoint("one") / "model.safetensors");
  double elements = 0;
  for (const SafetensorsInfo& tensor : model.tensors()) elements += double(tensor.bytes) / 8;
  const double of_parameters = 6 * elements * 4 * 32;  // 6 a parameter and token
  for (const size_t step : {0, 1, 2}) {
    const double flops = flops_of_a_step(one, step);
    EXPECT_GT(flops, 0.7 * of_parameters);  // embeddings are looked up
    EXPECT_LT(flops, 1.5 * of_parameters);
    // Neither what is evaluated nor what is computed again.
    EXPECT_NEAR(flops_of_a_step(evaluated, step), flops, 1e-9 * flops);
    EXPECT_NEAR(flops_of_a_step(two, step), flops / 2, 0.1 * flops);
  }
  EXPECT_EQ(one.find("mfu"), std::string::npos);  // what a CPU can do at most is not known
}

TEST_F(ProgramLearning, EvalGivesThePerplexityThatTrainPrinted) {
  const ProgramResult trained = train("run", {"train.eval_sequences=0"});
  const std::string line = after(trained.output, "Held-out perplexity:");
  const double printed = std::stod(line.substr(line.find(',') + 1));
  const ProgramResult evaluated = spanwise({"eval", "run"});
  ASSERT_EQ(evaluated.exit_code, 0) << evaluated.output;
  EXPECT_NEAR(std::stod(after(evaluated.output, "perplexity")), printed, 0.0051) << evaluated.output;
  // Another dataset, and fewer sequences, are other numbers.
  const ProgramResult other = spanwise({"eval", "run", "--data", "train", "--sequences", "3"});
  EXPECT_EQ(after(other.output, "data"), "train");
  EXPECT_NE(after(other.output, "perplexity"), after(evaluated.output, "perplexity"));
}

TEST_F(ProgramLearning, GenerateIsDeterministicWithoutTemperatureForEveryMixer) {
  for (const MixerCase& mixer : mixer_cases()) {
    SCOPED_TRACE(mixer.name);
    std::vector<std::string> settings = mixer.settings;
    for (const char* setting : {"train.precision=F32", "train.steps=40", "optimizer.learning_rate=1e-2",
                                "optimizer.schedule_steps=40", "data.validation="}) {
      settings.push_back(setting);
    }
    train(mixer.name, settings);
    const std::vector<std::string> arguments = {"generate", mixer.name, "--prompt",      "the cat ",
                                                "--tokens", "40",       "--temperature", "0"};
    const ProgramResult first = spanwise(arguments);
    EXPECT_EQ(first.exit_code, 0) << first.output;
    EXPECT_TRUE(first.output.starts_with("the cat ")) << first.output;
    EXPECT_GT(first.output.size(), std::string("the cat \n").size() + 10);
    EXPECT_EQ(spanwise(arguments).output, first.output);
  }
}

TEST_F(ProgramLearning, SamplesDependOnTheSeedAlone) {
  train("run", {"train.precision=F32"});
  const auto sample = [&](const char* seed) {
    return spanwise({"generate", "run", "--tokens", "60", "--temperature", "1", "--seed", seed}).output;
  };
  EXPECT_EQ(sample("1"), sample("1"));
  EXPECT_NE(sample("1"), sample("2"));
}

}  // namespace
}  // namespace spanwise::testing
