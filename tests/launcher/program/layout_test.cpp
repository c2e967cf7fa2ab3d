// The numbers of a run do not depend on how it is spread over ranks and passes.

#include <cmath>

#include "core/check.h"
#include "core/file_io.h"
#include "models/hf/safetensors.h"
#include "tests/launcher/program/tiny_run.h"

namespace spanwise::testing {
namespace {

struct Layout {
  int ranks;
  int micro_batch;
};

template <class T>
double largest_difference(const SafetensorsReader& expected, const SafetensorsReader& actual) {
  double largest = 0, scale = 0;
  for (const SafetensorsInfo& tensor : expected.tensors()) {
    std::vector<T> a(tensor.bytes / sizeof(T)), b(a.size());
    expected.read(tensor.name, a.data(), tensor.bytes);
    actual.read(tensor.name, b.data(), tensor.bytes);
    for (size_t i = 0; i < a.size(); ++i) {
      largest = std::max(largest, std::abs(double(a[i]) - double(b[i])));
      scale = std::max(scale, std::abs(double(a[i])));
    }
  }
  return largest / scale;
}

struct MeshCase {
  const char* name;
  int ranks;
  std::vector<std::string> settings;
};
std::vector<MeshCase> mesh_cases() {
  return {{"tensor", 2, {"parallel.tensor=2", "parallel.zero_stage=1"}},
          {"zigzag", 4, {"parallel.sequence=4", "parallel.partition=ZIGZAG"}},
          {"both", 4, {"parallel.sequence=2", "parallel.tensor=2", "parallel.zero_stage=3"}}};
}

class ProgramLayout : public TinyRunTest {
 protected:
  std::string train_in(const Layout& layout, std::vector<std::string> settings, const std::string& name) {
    const std::string run = fmt::format("{}_{}x{}", name, layout.ranks, layout.micro_batch);
    settings.push_back(fmt::format("train.micro_batch={}", layout.micro_batch));
    train(run, settings, layout.ranks == 1 ? 0 : layout.ranks);
    return run;
  }

  template <class T>
  void expect_equal_runs(const std::string& expected, const std::string& actual, double tolerance) {
    SCOPED_TRACE(actual + " against " + expected);
    const std::vector<StepRecord> a = read_metrics(path(expected)), b = read_metrics(path(actual));
    ASSERT_EQ(a.size(), 8);
    ASSERT_EQ(b.size(), a.size());
    for (size_t i = 0; i < a.size(); ++i) {
      EXPECT_NEAR(b[i].loss, a[i].loss, tolerance * a[i].loss) << "step " << a[i].step;
      EXPECT_NEAR(b[i].grad_norm, a[i].grad_norm, tolerance * a[i].grad_norm) << "step " << a[i].step;
    }
    const SafetensorsReader expected_model(checkpoint(expected) / "model.safetensors");
    const SafetensorsReader actual_model(checkpoint(actual) / "model.safetensors");
    EXPECT_LE(largest_difference<T>(expected_model, actual_model), tolerance);
  }
};

TEST_F(ProgramLayout, LossesGradientsAndWeightsAreEqualOn1And2And4RanksForEveryMixer) {
  for (const MixerCase& mixer : mixer_cases()) {
    const std::string one = train_in({1, 1}, mixer.settings, mixer.name);
    for (const Layout& layout : {Layout{2, 1}, Layout{4, 1}}) {
      expect_equal_runs<double>(one, train_in(layout, mixer.settings, mixer.name), 1e-10);
    }
  }
}

TEST_F(ProgramLayout, MicroBatchChangesNothing) {
  const std::string one = train_in({1, 1}, {}, "micro");
  for (const Layout& layout : {Layout{1, 2}, Layout{1, 4}, Layout{2, 2}}) {
    expect_equal_runs<double>(one, train_in(layout, {}, "micro"), 1e-10);
  }
}

TEST_F(ProgramLayout, EveryZeroStageTrainsTheSameAndItsCheckpointsGoOnInOthers) {
  const auto zero = [](int stage, int steps = 8) {
    return std::vector<std::string>{fmt::format("parallel.zero_stage={}", stage),
                                    fmt::format("train.steps={}", steps), "optimizer.schedule=CONSTANT"};
  };
  const std::string one = train_in({1, 1}, zero(0), "zero");
  for (const int stage : {1, 2, 3}) {
    expect_equal_runs<double>(one, train_in({2, 1}, zero(stage), fmt::format("zero{}", stage)), 1e-10);
  }
  // Four ranks stop after 4 steps; two and one go on.
  train("handed_on", zero(3, 4), 4);
  train("handed_on", zero(2, 6), 2);
  train("handed_on", zero(0, 8));
  expect_equal_runs<double>(one, "handed_on", 1e-10);
}

TEST_F(ProgramLayout, NormsShardedOverTensorRanksTrainTheSameAndTheirCheckpointsGoOnWithout) {
  const std::vector<std::string> constant = {"optimizer.schedule=CONSTANT", "train.sequence_length=31"};
  const auto with = [&](std::vector<std::string> settings) {
    settings.insert(settings.end(), constant.begin(), constant.end());
    return settings;
  };
  const std::string one = train_in({1, 1}, constant, "one");
  train("sharded",
        with({"parallel.sequence=2", "parallel.tensor=2", "parallel.shard_norms=true",
              "parallel.zero_stage=1", "train.steps=4"}),
        4);
  // Rows that one data rank evaluates alone are odd in number.
  const ProgramResult eval = spanwise({"eval", "sharded"}, {"parallel.sequence=1", "train.micro_batch=1"}, 4),
                      eval_alone =
                          spanwise({"eval", "sharded"}, {"parallel.sequence=1", "parallel.tensor=1"});
  EXPECT_EQ(eval.exit_code, 0) << eval.output;
  EXPECT_EQ(eval.output, eval_alone.output);
  train("sharded", constant);
  expect_equal_runs<double>(one, "sharded", 1e-10);
}

TEST_F(ProgramLayout, SinglePrecisionAgreesToItsRounding) {
  const std::vector<std::string> settings = {"train.precision=F32"};
  const std::string one = train_in({1, 1}, settings, "f32");
  expect_equal_runs<float>(one, train_in({2, 1}, settings, "f32"), 1e-5);
}

TEST_F(ProgramLayout, HeldOutLossIsEqualOn1And2And4Ranks) {
  train("run");
  const ProgramResult one = spanwise({"eval", "run"});
  ASSERT_EQ(one.exit_code, 0) << one.output;
  EXPECT_NE(one.output.find("perplexity"), std::string::npos) << one.output;
  for (const int ranks : {2, 4}) EXPECT_EQ(spanwise({"eval", "run"}, {}, ranks).output, one.output);
}

// A rate below the smallest float leaves the weights where they began.
TEST_F(ProgramLayout, InitialWeightsAreBitIdenticalInEveryLayout) {
  const std::vector<std::string> settings = {"train.precision=F32", "optimizer.learning_rate=1e-60",
                                             "train.steps=1"};
  const auto initial = [&](const Layout& layout, const std::vector<std::string>& extra,
                           const std::string& name) {
    std::vector<std::string> all = settings;
    all.insert(all.end(), extra.begin(), extra.end());
    return read_file(checkpoint(train_in(layout, all, name)) / "model.safetensors");
  };
  for (const MixerCase& mixer : mixer_cases()) {
    SCOPED_TRACE(mixer.name);
    const std::string one = initial({1, 1}, mixer.settings, mixer.name);
    EXPECT_TRUE(one == initial({1, 4}, mixer.settings, mixer.name));
    for (const MeshCase& mesh : mesh_cases()) {
      SCOPED_TRACE(mesh.name);
      std::vector<std::string> all = mixer.settings;
      all.insert(all.end(), mesh.settings.begin(), mesh.settings.end());
      EXPECT_TRUE(one == initial({mesh.ranks, 1}, all, std::string(mixer.name) + mesh.name));
    }
  }
  const std::string one = initial({1, 1}, {}, "same_seed");
  EXPECT_TRUE(one == initial({2, 1}, {}, "same_seed"));
  EXPECT_TRUE(one == initial({4, 1}, {}, "same_seed"));
  EXPECT_FALSE(one == initial({1, 1}, {"run.seed=2"}, "other_seed"));
}

}  // namespace
}  // namespace spanwise::testing
