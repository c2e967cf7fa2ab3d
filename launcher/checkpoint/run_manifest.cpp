#include "launcher/checkpoint/run_manifest.h"

#include "launcher/build_info.h"
#include "launcher/config_derived.h"

namespace spanwise {

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
  Manifest::Schedule* schedule = manifest.mutable_schedule();
  schedule->set_kind(config::OptimizerConfig::Schedule_Name(config.optimizer().schedule()));
  schedule->set_total_steps(schedule_steps(config));
  schedule->set_warmup_steps(config.optimizer().warmup_steps());
  schedule->set_decay_steps(decay_steps(config));
  schedule->set_peak_lr(config.optimizer().learning_rate());
  schedule->set_final_lr(config.optimizer().learning_rate() * config.optimizer().min_learning_rate_ratio());
  manifest.set_git_hash(git_hash());
  manifest.set_num_parameters(params.num_parameters());
  manifest.set_tokenizer_crc32c(state.tokenizer_crc32c);
  manifest.set_document_start(static_cast<Manifest::DocumentStart>(state.document_start));
  manifest.set_precision(config::TrainConfig::Precision_Name(config.train().precision()));
  return manifest;
}

static_assert(int(DocumentStart::kFirstToken) == Manifest::FIRST_TOKEN);
static_assert(int(DocumentStart::kEndOfDocument) == Manifest::END_OF_DOCUMENT);
static_assert(int(DocumentStart::kBeginOfDocument) == Manifest::BEGIN_OF_DOCUMENT);

void check_tokenizer(const Manifest& manifest, uint32_t checksum, const std::filesystem::path& directory) {
  if (!manifest.has_tokenizer_crc32c() || manifest.tokenizer_crc32c() == checksum) return;
  fail_user(
      "{} was trained with a tokenizer whose checksum is {:08x}; that of data.tokenizer is {:08x}; name the one it "
      "was trained with, or choose another run.dir",
      directory.string(), manifest.tokenizer_crc32c(), checksum);
}

DocumentStart document_start_of(const Manifest& manifest) {
  return static_cast<DocumentStart>(manifest.document_start());
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
