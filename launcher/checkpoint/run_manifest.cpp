#include "launcher/checkpoint/run_manifest.h"

#include <optional>

#include "core/optim/schedule.h"
#include "launcher/build_info.h"
#include "launcher/config/derived.h"
#include "launcher/objects.h"

namespace spanwise {

namespace {

Manifest::Schedule schedule_message(const RunConfig& config) {
  Manifest::Schedule schedule;
  schedule.set_kind(config::OptimizerConfig::Schedule_Name(config.optimizer().schedule()));
  schedule.set_total_steps(schedule_steps(config));
  schedule.set_warmup_steps(config.optimizer().warmup_steps());
  schedule.set_decay_steps(decay_steps(config));
  schedule.set_peak_lr(config.optimizer().learning_rate());
  schedule.set_final_lr(config.optimizer().learning_rate() * config.optimizer().min_learning_rate_ratio());
  return schedule;
}

// The config whose schedule a manifest describes; nothing if this build does not know its kind.
std::optional<RunConfig> config_of(const Manifest::Schedule& schedule) {
  RunConfig config;
  config::OptimizerConfig::Schedule kind;
  if (!config::OptimizerConfig::Schedule_Parse(schedule.kind(), &kind) || !(schedule.peak_lr() > 0))
    return {};
  config::OptimizerConfig& optimizer = *config.mutable_optimizer();
  optimizer.set_schedule(kind);
  optimizer.set_schedule_steps(schedule.total_steps());
  optimizer.set_warmup_steps(schedule.warmup_steps());
  optimizer.set_decay_steps(schedule.decay_steps());
  optimizer.set_learning_rate(schedule.peak_lr());
  optimizer.set_min_learning_rate_ratio(schedule.final_lr() / schedule.peak_lr());
  return config;
}

// "COSINE to step 16, peak 0.005"
std::string describe(const Manifest::Schedule& schedule) {
  if (schedule.kind() == "CONSTANT") return fmt::format("CONSTANT, {}", schedule.peak_lr());
  return fmt::format("{} to step {}, peak {}", schedule.kind(), schedule.total_steps(), schedule.peak_lr());
}

}  // namespace

Manifest manifest_of(const RunConfig& config, const DataCursor& cursor, const ParamStore& params,
                     const TrainingState& state) {
  Manifest manifest;
  manifest.set_tokens_seen(state.tokens_seen);
  manifest.set_samples_seen(cursor.samples_seen);
  manifest.set_sequence_length(cursor.sequence_length);
  manifest.set_seed(cursor.seed);
  for (const DataCursor::Dataset& dataset : cursor.datasets) {
    Manifest::DataSource* source = manifest.add_data();
    source->set_name(dataset.name);
    source->set_weight(dataset.weight);
    source->set_num_tokens(dataset.num_tokens);
    source->set_fingerprint(dataset.fingerprint);
    if (dataset.contents != 0) source->set_contents_crc32c(dataset.contents);
  }
  *manifest.mutable_schedule() = schedule_message(config);
  manifest.set_git_hash(git_hash());
  manifest.set_num_parameters(params.num_parameters());
  manifest.set_document_start(static_cast<Manifest::DocumentStart>(state.document_start));
  put_settings(state.settings, manifest);
  if (!state.init_from.empty()) manifest.set_init_from(state.init_from);
  manifest.set_precision(config::TrainConfig::Precision_Name(config.train().precision()));
  return manifest;
}

static_assert(int(DocumentStart::kFirstToken) == Manifest::FIRST_TOKEN);
static_assert(int(DocumentStart::kEndOfDocument) == Manifest::END_OF_DOCUMENT);
static_assert(int(DocumentStart::kBeginOfDocument) == Manifest::BEGIN_OF_DOCUMENT);

DocumentStart document_start_of(const Manifest& manifest) {
  return static_cast<DocumentStart>(manifest.document_start());
}

std::string schedule_change(const Manifest& manifest, const RunConfig& config) {
  const Manifest::Schedule now = schedule_message(config), &then = manifest.schedule();
  if (now.SerializeAsString() == then.SerializeAsString()) return "";
  const std::optional<RunConfig> before = config_of(then);
  if (!before) return "";
  const int64_t step = manifest.step() + 1;
  return fmt::format(
      "the learning rate's schedule has changed: step {} has rate {:.3g} ({}), which was {:.3g} ({})", step,
      learning_rate(schedule_of(config), step), describe(now), learning_rate(schedule_of(*before), step),
      describe(then));
}

DataCursor cursor_of(const Manifest& manifest) {
  DataCursor cursor{.samples_seen = manifest.samples_seen(),
                    .sequence_length = manifest.sequence_length(),
                    .seed = manifest.seed()};
  for (const Manifest::DataSource& source : manifest.data()) {
    cursor.datasets.push_back({source.name(), source.weight(), source.num_tokens(), source.fingerprint(),
                               source.contents_crc32c()});
  }
  return cursor;
}

}  // namespace spanwise
