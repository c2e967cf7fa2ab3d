// What `plan` says without running is what a run does.

#include "launcher/plan.h"

#include "core/check.h"
#include "models/hf/safetensors.h"
#include "tests/launcher/program/planned_run.h"

namespace spanwise::testing {
namespace {

class ProgramPlan : public PlannedRunTest {
 protected:
  void expect_planned_traffic(const PlanCase& c) {
    SCOPED_TRACE(c.name);
    run_case(c);
    Fields planned, measured = fields_of(lines()[1], "bytes/");
    const Fields first = fields_of(lines()[0], "bytes/");
    for (auto& [name, bytes] : measured) bytes -= first.count(name) ? first.at(name) : 0;
    for (const PlannedTraffic& t : plan(c, 0).traffic)
      planned[fmt::format("bytes/{}/{}", t.axis, t.name)] = t.received_bytes;
    const auto is_zero = [](const auto& field) { return field.second == 0; };
    std::erase_if(planned, is_zero);
    std::erase_if(measured, is_zero);
    EXPECT_FALSE(measured.empty());
    EXPECT_EQ(planned, measured);
  }
};

// plan_mpi_test.cpp has every layout and mixer; here the program itself runs.
TEST_F(ProgramPlan, CollectiveBytesAndPeakOfAStepEqualThoseOfARun) {
  for (const PlanCase& c : {
           PlanCase{"accumulation", 2, {"train.micro_batch=1", "parallel.zero_stage=3"}},
           {"tensor_sequence", 4, {"parallel.tensor=2", "parallel.sequence=2"}},
       }) {
    expect_planned_traffic(c);
    const PlannedMemory memory = plan(c, 0).memory;
    EXPECT_EQ(std::max(memory.peak, memory.first_peak),
              fields_of(lines()[1], "memory_bytes").at("memory_bytes"))
        << c.name;
  }
}

TEST_F(ProgramPlan, ParametersAndOptimizerAreThoseOfTheCheckpoint) {
  const PlanCase c{"one", 1, {}};
  run_case(c);
  const RankPlan planned = plan(c, 0);
  int64_t parameters = 0, moments = 0;
  const SafetensorsReader model(checkpoint("one") / "model.safetensors");
  for (const SafetensorsInfo& tensor : model.tensors()) parameters += int64_t(tensor.bytes);
  const SafetensorsReader optimizer(checkpoint("one") / "optimizer.safetensors");
  for (const SafetensorsInfo& tensor : optimizer.tensors()) moments += int64_t(tensor.bytes);
  EXPECT_EQ(planned.num_parameters * 8, parameters);
  EXPECT_EQ(2 * parameters, moments);
  // Parameters begin at multiples of 16 elements, and the allocator rounds up by an eighth at most.
  const int64_t padding = planned.memory.parameters - parameters;
  EXPECT_GE(padding, 0);
  EXPECT_LT(padding, parameters / 8 + 100 * 16 * 8);
  EXPECT_EQ(planned.memory.gradients, planned.memory.parameters);
  EXPECT_EQ(planned.memory.optimizer, 2 * planned.memory.parameters);
}

TEST_F(ProgramPlan, MemoryOfZeroStagesIsDividedAsTheirNumbersSay) {
  const auto memory = [&](int stage) {
    return plan({"", 4, {fmt::format("parallel.zero_stage={}", stage)}}, 0).memory;
  };
  const auto is_quarter = [](int64_t part, int64_t whole) {
    EXPECT_GE(4 * part, whole);
    EXPECT_LE(4 * part, whole * 9 / 8);  // the allocator's rounding
  };
  EXPECT_EQ(memory(1).parameters, memory(0).parameters);
  EXPECT_EQ(memory(1).gradients, memory(0).gradients);
  is_quarter(memory(1).optimizer, memory(0).optimizer);
  EXPECT_EQ(memory(2).parameters, memory(0).parameters);
  is_quarter(memory(2).gradients, memory(0).gradients);
  EXPECT_LT(memory(3).parameters, memory(0).parameters / 3);
  EXPECT_EQ(memory(3).optimizer, 2 * memory(3).parameters);
}

TEST_F(ProgramPlan, CopyOfACheckpointIsThatOfWhoWritesIt) {
  const auto copy = [&](const char* writers, int rank) {
    return plan({"", 4, {"parallel.tensor=2", fmt::format("checkpoint.writers={}", writers)}}, rank)
        .memory.checkpoint_copy;
  };
  const int64_t all = 3 * plan({"", 4, {"parallel.tensor=2"}}, 0).num_parameters * 8;  // F64
  EXPECT_EQ(copy("ONE", 0), all);
  for (const int rank : {1, 2, 3}) EXPECT_EQ(copy("ONE", rank), 0);
  // Tensor rank 0 of both data ranks, as evenly as whole tensors allow.
  EXPECT_EQ(copy("ALL", 1), 0);
  for (const int rank : {0, 2}) EXPECT_NEAR(double(copy("ALL", rank)), double(all) / 2, 0.02 * double(all));
}

TEST_F(ProgramPlan, PeakHoldsGradientsBesideActivationsOnlyWhereSeveralMicroBatchesDo) {
  const auto memory = [&](const char* micro_batch) {
    return plan({"", 1, {"train.global_batch=4", fmt::format("train.micro_batch={}", micro_batch)}}, 0)
        .memory;
  };
  const PlannedMemory one = memory("4"), several = memory("2");
  const int64_t sum = several.parameters + several.optimizer + several.gradients + several.activations;
  EXPECT_GE(several.peak, sum);  // and losses, and lists that all layers read
  EXPECT_LE(several.peak, sum + (8 << 10));
  EXPECT_LT(one.peak, one.parameters + one.optimizer + one.gradients + one.activations);
  EXPECT_GE(one.peak, one.parameters + one.optimizer + std::max(one.gradients, one.activations));
}

TEST_F(ProgramPlan, VerbTakesDocumentsFromTheDataWhereItIsAndSaysWhichItPlans) {
  const auto output = [&](const std::vector<std::string>& arguments,
                          const std::vector<std::string>& settings) {
    std::vector<std::string> all = {"plan", "config.textproto"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    const ProgramResult result = spanwise(all, settings);
    EXPECT_EQ(result.exit_code, 0) << result.output;
    return result.output;
  };
  const auto has = [](const std::string& text, const char* part) { return text.find(part) != text.npos; };
  const std::string data = output({}, {});
  EXPECT_TRUE(has(data, "Documents of data.train in step ")) << data;
  EXPECT_TRUE(has(data, "of the first 8 the one that needs most on rank 0.")) << data;
  EXPECT_TRUE(has(output({"--documents", "9"}, {}), "Documents of 9 tokens, from each row's first one.\n"));
  EXPECT_TRUE(has(output({"--documents", "0"}, {}), "One document a row.\n"));
  EXPECT_TRUE(
      has(output({}, {"data.train={path: 'nowhere'}"}), "One document a row: data.train is not here"));
}

TEST_F(ProgramPlan, VerbPlansFiveHundredRanksOnOneAndWritesNothing) {
  const auto before = files_below(path(""));
  const ProgramResult result = spanwise({"plan", "config.textproto", "--ranks", "512", "--rank", "511"},
                                        {"parallel.sequence=64", "parallel.tensor=2", "train.global_batch=4",
                                         "train.sequence_length=1024", "parallel.zero_stage=2"});
  ASSERT_EQ(result.exit_code, 0) << result.output;
  for (const char* part : {"data 4 x sequence 64 x tensor 2", "optimizer", "state_forward", "param_gather",
                           "Most of any rank", "read and written"}) {
    EXPECT_NE(result.output.find(part), std::string::npos) << part << " in " << result.output;
  }
  EXPECT_TRUE(files_below(path("")) == before);
}

TEST_F(ProgramPlan, VerbNamesTheDeviceAndNeedsNoGpu) {
  const auto output = [&](const std::vector<std::string>& settings) {
    const ProgramResult result = spanwise({"plan", "config.textproto"}, settings);
    EXPECT_EQ(result.exit_code, 0) << result.output;
    return result.output;
  };
  const auto has = [](const std::string& text, const char* part) { return text.find(part) != text.npos; };
  EXPECT_TRUE(has(output({"device=CPU"}), "Planned for device CPU.\n"));
  EXPECT_TRUE(has(output({"device=CUDA", "train.precision=F32"}), "Planned for device CUDA.\n"));
  EXPECT_TRUE(has(output({"train.precision=BF16", "model.layer.N.attention.head_dim=64",
                          "model.layer.L.gated_delta_net.head_dim=64"}),
                  "Planned for device CUDA, which AUTO is in BF16"));
  EXPECT_TRUE(has(output({"train.precision=F64"}), "Planned for device CPU, which AUTO is on this machine"));
}

}  // namespace
}  // namespace spanwise::testing
