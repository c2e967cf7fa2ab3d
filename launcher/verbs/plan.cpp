// spanwise plan CONFIG|RUN_DIR [--ranks N] [--rank R] [--documents TOKENS] [--set …]

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <optional>

#include "core/progress.h"
#include "data/document_start.h"
#include "data/loader.h"
#include "launcher/config/derived.h"
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
  return text + ".\n";
}

std::string memory_table(const RankPlan& plan) {
  std::string text = fmt::format("Memory of rank {}\n\n", plan.rank);
  const auto row = [&](const char* what, int64_t bytes) {
    text += fmt::format("  {:<28}{:>18} bytes  {:>14} MiB\n", what, bytes, mib(bytes));
  };
  row("parameters", plan.memory.parameters);
  row("optimizer", plan.memory.optimizer);
  row("gradients, at the update", plan.memory.gradients);
  row("activations", plan.memory.activations);
  row("most at once", plan.memory.peak);
  if (plan.memory.first_peak > plan.memory.peak) row("  in the first step", plan.memory.first_peak);
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
  return text;
}

std::string work_of_a_step(const RankPlan& plan) {
  return fmt::format(
      "Work of rank {} in a step\n\n  {:<28}{:>18.6e} FLOP\n  {:<28}{:>18.6e} FLOP\n  {:<28}{:>18.6e} "
      "bytes\n",
      plan.rank, "model", plan.work.flops, "recomputed", plan.work.recomputed_flops, "read and written",
      plan.work.bytes);
}

std::string most_of_any_rank(const MostOfAnyRank& most) {
  return fmt::format("Most of any rank: {} MiB at once (rank {}), {} MiB received in a step (rank {}).\n",
                     mib(most.peak), most.memory_rank, mib(most.received_bytes), most.traffic_rank);
}

/// The rows of the planned step, and the sentence that says which they are.
struct ChosenRows {
  std::unique_ptr<Loader> loader;
  StepRows rows;
  std::string said;
};

bool has_data(const RunConfig& config) {
  const auto is_there = [](const config::DatasetConfig& dataset) {
    std::error_code ignored;
    return std::filesystem::exists(dataset.path() + ".idx", ignored);
  };
  return std::all_of(config.data().train().begin(), config.data().train().end(), is_there);
}

/// Steps of which the fullest one is planned.
constexpr int64_t kStepsLookedAt = 100;

ChosenRows choose_rows(const RunConfig& config, const Tokenizer& tokenizer, int ranks, int rank,
                       std::optional<int64_t> document_tokens) {
  ChosenRows chosen;
  const int64_t vocab_size = tokenizer.vocab_size();
  if (document_tokens || !has_data(config)) {
    const int64_t tokens = document_tokens.value_or(0);
    chosen.rows = rows_of_documents(config, vocab_size, ranks, tokens);
    chosen.said = tokens > 0 ? fmt::format("Documents of {} tokens, from each row's first one", tokens)
                             : "One document a row";
    if (!document_tokens) chosen.said += ": data.train is not here (--documents TOKENS plans others)";
    return chosen;
  }
  chosen.loader = std::make_unique<Loader>(
      loader_options(config, resolved_model(config.model(), vocab_size).vocab_size()));
  std::vector<const IndexedDataset*> datasets;
  for (const IndexedDataset& dataset : chosen.loader->datasets()) datasets.push_back(&dataset);
  chosen.loader->set_documents(document_rule(choose_document_start(tokenizer, datasets), tokenizer));
  const int64_t steps = std::min(kStepsLookedAt, config.train().steps());
  const auto rows = [&](int64_t step) { return rows_of_data(config, ranks, *chosen.loader, step); };
  const int64_t step = fullest_step(config, vocab_size, ranks, rank, steps, rows);
  chosen.rows = rows(step);
  chosen.said =
      fmt::format("Documents of data.train in step {}, of the first {} the one that needs most on rank {}",
                  step + 1, steps, rank);
  return chosen;
}

}  // namespace

Usage plan_usage() {
  return {
      .command =
          "spanwise plan CONFIG|RUN_DIR [--ranks N] [--rank R] [--documents TOKENS] [--set FIELD=VALUE …]",
      .description =
          "What training would need on each of N ranks, by a dry run of a step: bytes of memory "
          "on the config's device, bytes received by every collective, and the work. It needs no GPU: "
          "device AUTO is planned for GPUs in BF16, and as a run here would have it else. Where documents "
          "begin in rows is taken from data.train where that is here: of the first 100 steps the one that "
          "needs most.",
      .options = {{"ranks", "N", "ranks of the run; default: as many as this is started with"},
                  {"rank", "R", "the rank whose tables are printed; default: 0"},
                  {"documents", "TOKENS",
                   "plan rows of documents of so many tokens each, 0: one document a row, instead of "
                   "the data's"},
                  {"set", "FIELD=VALUE", "override a config field; may be repeated"},
                  {"help", nullptr, "this text"}},
      .min_positional = 1,
      .max_positional = 1};
}

int run_plan(Comm& world, const Arguments& arguments) {
  const int ranks = int(arguments.integer("ranks", world.size(), 1, kMaxRanks));
  const int rank = int(arguments.integer("rank", 0, 0, ranks - 1));
  std::optional<int64_t> document_tokens;
  if (arguments.has("documents")) document_tokens = arguments.integer("documents", 0, 0, INT32_MAX);
  const RunConfig given = load_run_config(arguments.positional()[0], arguments, world);
  const RunConfig config = config_to_plan(given);
  const std::unique_ptr<Tokenizer> tokenizer = checked_tokenizer(config, ranks, ConfigUse::kPlan);
  if (world.rank() != 0) return 0;

  std::optional<Progress> progress(std::in_place, progress_on_stderr("planning"));
  const MeshShape shape = mesh_shape(config, ranks);
  const ChosenRows chosen = choose_rows(config, *tokenizer, ranks, rank, document_tokens);
  const int64_t vocab_size = tokenizer->vocab_size();
  const RankPlan plan = plan_rank(config, vocab_size, ranks, rank, chosen.rows);
  std::string most;
  if (ranks > 1)
    most = fmt::format("\n{}", most_of_any_rank(plan_ranks(config, vocab_size, ranks, chosen.rows)));
  progress.reset();
  std::cout << fmt::format("{} parameters in {} on {} rank{}: data {} x sequence {} x tensor {}\n",
                           plan.num_parameters, name_of(compute_dtype(config)), ranks, ranks == 1 ? "" : "s",
                           shape.data, shape.sequence, shape.tensor);
  std::cout << planned_device(given, config) << chosen.said << ".\n\n"
            << memory_table(plan) << "\n"
            << traffic_table(plan) << "\n"
            << work_of_a_step(plan);
  std::cout << most << std::flush;
  return 0;
}

}  // namespace spanwise
