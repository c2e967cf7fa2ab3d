// spanwise plan CONFIG|RUN_DIR [--ranks N] [--rank R] [--set …]

#include <algorithm>
#include <iostream>
#include <optional>

#include "core/progress.h"
#include "launcher/objects.h"
#include "launcher/plan.h"
#include "launcher/run_setup.h"
#include "launcher/runtime.h"
#include "launcher/verb.h"

namespace spanwise {

namespace {

constexpr int64_t kMaxRanks = 1 << 20;

std::string mib(int64_t bytes) {
  return fmt::format("{:.3f}", double(bytes) / (1 << 20));
}

std::string planned_device(const RunConfig& given, const RunConfig& planned) {
  std::string text = fmt::format("Planned for device {}", name_of(compute_device(planned)));
  if (given.device() == RunConfig::AUTO) {
    text += planned.device() == RunConfig::AUTO ? ", which AUTO is on this machine"
                                                : ", which AUTO is in BF16: only GPUs run it";
  }
  return text + ".\n\n";
}

std::string memory_table(const RankPlan& plan) {
  std::string text = fmt::format("Memory of rank {}\n\n", plan.rank);
  const auto row = [&](const char* what, int64_t bytes) {
    text += fmt::format("  {:<28}{:>18} bytes  {:>14} MiB\n", what, bytes, mib(bytes));
  };
  row("parameters", plan.memory.parameters);
  row("optimizer", plan.memory.optimizer);
  row("gradients, at the update", plan.memory.gradients);
  row("activations, about", plan.memory.activations);
  row("most at once, about", plan.memory.peak);
  row("host copy of a checkpoint", plan.memory.checkpoint_copy);
  return text;
}

std::string traffic_table(const RankPlan& plan) {
  if (plan.traffic.empty()) return "One rank receives nothing.\n";
  std::string text = fmt::format("Received by rank {} in a step\n\n", plan.rank);
  text += fmt::format("  {:<16}{:<28}{:>8}{:>20}{:>16}\n", "axis", "collective", "calls", "bytes", "MiB");
  for (const PlannedTraffic& t : plan.traffic) {
    text += fmt::format("  {:<16}{:<28}{:>8}{:>20}{:>16}\n", t.axis, t.name, t.calls, t.received_bytes,
                        mib(t.received_bytes));
  }
  text += fmt::format("  {:<52}{:>20}{:>16}\n", "total", plan.received_bytes(), mib(plan.received_bytes()));
  return text + "\n  Rows of one document each; where documents end inside rows, halos are shorter.\n";
}

std::string most_of_any_rank(const std::vector<RankPlan>& plans) {
  const auto by_memory = std::max_element(
      plans.begin(), plans.end(), [](const auto& a, const auto& b) { return a.memory.peak < b.memory.peak; });
  const auto by_traffic = std::max_element(plans.begin(), plans.end(), [](const auto& a, const auto& b) {
    return a.received_bytes() < b.received_bytes();
  });
  return fmt::format(
      "Most of any rank: about {} MiB at once (rank {}), {} MiB received in a step (rank {}).\n",
      mib(by_memory->memory.peak), by_memory->rank, mib(by_traffic->received_bytes()), by_traffic->rank);
}

}  // namespace

Usage plan_usage() {
  return {.command = "spanwise plan CONFIG|RUN_DIR [--ranks N] [--rank R] [--set FIELD=VALUE …]",
          .description =
              "What training would need on each of N ranks, without running it: bytes of memory "
              "on the config's device, and bytes received by every collective. It needs no GPU: "
              "device AUTO is planned for GPUs in BF16, and as a run here would have it else.",
          .options = {{"ranks", "N", "ranks of the run; default: as many as this is started with"},
                      {"rank", "R", "the rank whose tables are printed; default: 0"},
                      {"set", "FIELD=VALUE", "override a config field; may be repeated"},
                      {"help", nullptr, "this text"}},
          .min_positional = 1,
          .max_positional = 1};
}

int run_plan(Comm& world, const Arguments& arguments) {
  const int ranks = int(arguments.integer("ranks", world.size(), 1, kMaxRanks));
  const int rank = int(arguments.integer("rank", 0, 0, ranks - 1));
  const RunConfig given = load_run_config(arguments.positional()[0], arguments, world);
  const RunConfig config = config_to_plan(given);
  const int64_t vocab_size = checked_tokenizer(config, ranks, ConfigUse::kPlan)->vocab_size();
  if (world.rank() != 0) return 0;

  std::optional<Progress> progress(std::in_place, progress_on_stderr("planning"));
  const MeshShape shape = mesh_shape(config, ranks);
  const RankPlan plan = plan_rank(config, vocab_size, ranks, rank);
  std::string most;
  if (ranks > 1) most = fmt::format("\n{}", most_of_any_rank(plan_ranks(config, vocab_size, ranks)));
  progress.reset();
  std::cout << fmt::format("{} parameters in {} on {} rank{}: data {} x sequence {} x tensor {}\n",
                           plan.num_parameters, name_of(compute_dtype(config)), ranks, ranks == 1 ? "" : "s",
                           shape.data, shape.sequence, shape.tensor);
  std::cout << planned_device(given, config) << memory_table(plan) << "\n" << traffic_table(plan);
  std::cout << most << std::flush;
  return 0;
}

}  // namespace spanwise
