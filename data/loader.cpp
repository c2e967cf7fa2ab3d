#include "data/loader.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/check.h"

namespace spanwise {
namespace {

Batch make_batch(int64_t num_sequences, int64_t sequence_length) {
  Batch batch;
  batch.num_sequences = num_sequences;
  batch.sequence_length = sequence_length;
  batch.tokens.reserve(num_sequences * sequence_length);
  batch.labels.reserve(num_sequences * sequence_length);
  return batch;
}

/// Appends the row whose inputs start at token `begin` of the dataset. A row that reaches past the end is
/// filled up.
void append_row(Batch& batch, const IndexedDataset& dataset, int64_t begin, int64_t vocab_size,
                const DocumentRule& rule) {
  const int64_t length = batch.sequence_length, row = int64_t(batch.tokens.size());
  const int64_t available = std::min(length + 1, dataset.num_tokens() - begin);
  std::vector<int32_t> sample(length + 1, 0);
  dataset.read(begin, available, sample.data());
  dataset.check_vocabulary(sample.data(), available, begin, vocab_size);
  batch.tokens.insert(batch.tokens.end(), sample.begin(), sample.end() - 1);
  batch.labels.insert(batch.labels.end(), sample.begin() + 1, sample.end());
  std::fill(batch.labels.begin() + row + available - 1, batch.labels.end(), kIgnoreLabel);

  batch.document_starts.push_back(row);
  for (int64_t i = dataset.first_document_at(begin + 1); i < dataset.num_documents(); ++i) {
    const int64_t t = dataset.document_begin(i) - begin;
    if (t >= available) break;
    const bool end_starts_it =
        rule.start == DocumentStart::kEndOfDocument && sample[t - 1] == rule.end_of_document;
    if (!end_starts_it) batch.labels[row + t - 1] = kIgnoreLabel;
    const int64_t start = end_starts_it ? t - 1 : t;
    // It may be only the label of the last position; empty documents share a start.
    if (start < length && batch.document_starts.back() != row + start)
      batch.document_starts.push_back(row + start);
  }
}

// A label is the next token of the same document. The first document of two tokens ends the search.
bool has_target(const IndexedDataset& dataset) {
  for (int64_t i = 0; i < dataset.num_documents(); ++i) {
    if (dataset.document_size(i) > 1) return true;
  }
  return false;
}

std::vector<IndexedDataset> open_datasets(const LoaderOptions& options) {
  SPANWISE_CHECK(options.global_batch > 0 && options.vocab_size > 0, "global_batch={}, vocab_size={}",
                 options.global_batch, options.vocab_size);
  if (options.datasets.empty()) fail_user("no dataset is named; give the prefix of at least one");
  std::vector<IndexedDataset> datasets;
  for (const auto& [prefix, weight] : options.datasets) {
    if (!(weight > 0) || !std::isfinite(weight))
      fail_user("dataset {} has weight {}; give a positive one, or leave the dataset out", prefix, weight);
    const IndexedDataset& dataset = datasets.emplace_back(prefix);
    if (num_whole_samples(dataset.num_tokens(), options.sequence_length) == 0)
      fail_user(
          "dataset {} has {} tokens, too few for one sample of {} tokens and its labels; add text or shorten "
          "the "
          "sequence length",
          prefix, dataset.num_tokens(), options.sequence_length);
    if (!has_target(dataset))
      fail_user(
          "dataset {} has nothing to learn: none of its {} documents has two tokens, one to predict from the "
          "other; prepare it from longer texts",
          prefix, dataset.num_documents());
  }
  return datasets;
}

std::vector<double> weights_of(const LoaderOptions& options) {
  std::vector<double> weights;
  for (const auto& dataset : options.datasets) weights.push_back(dataset.weight);
  return weights;
}

}  // namespace

int64_t Batch::num_targets() const {
  return int64_t(labels.size()) - std::count(labels.begin(), labels.end(), kIgnoreLabel);
}

Loader::Loader(LoaderOptions options)
    : options_(std::move(options)), datasets_(open_datasets(options_)), blend_(weights_of(options_)) {
  for (size_t d = 0; d < datasets_.size(); ++d)
    identities_.push_back({.name = datasets_[d].name(),
                           .weight = options_.datasets[d].weight,
                           .num_tokens = datasets_[d].num_tokens(),
                           .fingerprint = datasets_[d].fingerprint(),
                           .contents = datasets_[d].meta() ? datasets_[d].meta()->contents() : 0});
}

Batch Loader::load(int64_t step, int64_t first_row, int64_t num_rows) const {
  SPANWISE_CHECK(
      step >= 0 && first_row >= 0 && num_rows >= 0 && first_row + num_rows <= options_.global_batch,
      "rows [{}, {}) of step {} with a global batch of {}", first_row, first_row + num_rows, step,
      options_.global_batch);
  Batch batch = make_batch(num_rows, options_.sequence_length);
  for (int64_t row = first_row; row < first_row + num_rows; ++row) {
    const Blend::Place place = blend_(step * options_.global_batch + row);
    const int64_t epoch_samples = num_samples(place.dataset);
    const Permutation order(epoch_samples, options_.seed, identities_[place.dataset].name,
                            place.index / epoch_samples);
    const int64_t sample = order(place.index % epoch_samples);
    append_row(batch, datasets_[place.dataset], sample * options_.sequence_length, options_.vocab_size,
               documents_);
  }
  return batch;
}

DataCursor Loader::cursor(int64_t step) const {
  return {.samples_seen = step * options_.global_batch,
          .sequence_length = options_.sequence_length,
          .seed = options_.seed,
          .datasets = identities_};
}

int64_t Loader::resume(const DataCursor& cursor) const {
  constexpr const char* kWayOut = "resume with the settings of the checkpoint, or start a new run directory";
  if (cursor.sequence_length != options_.sequence_length)
    fail_user("the checkpoint was trained with sequence length {}, this run has {}; {}",
              cursor.sequence_length, options_.sequence_length, kWayOut);
  if (cursor.seed != options_.seed)
    fail_user("the checkpoint's samples were ordered by seed {}, this run has {}; {}", cursor.seed,
              options_.seed, kWayOut);
  if (cursor.datasets.size() != identities_.size())
    fail_user("the checkpoint was trained on {} datasets, this run names {}; {}", cursor.datasets.size(),
              identities_.size(), kWayOut);
  for (size_t d = 0; d < identities_.size(); ++d) {
    const auto &then = cursor.datasets[d], &now = identities_[d];
    // Where one has no table of checksums, the rest has to do.
    const bool same_contents = then.contents == now.contents || then.contents == 0 || now.contents == 0;
    if (then.name != now.name || then.weight != now.weight || then.num_tokens != now.num_tokens ||
        then.fingerprint != now.fingerprint || !same_contents)
      fail_user(
          "dataset {} is not the one of the checkpoint: {} with {} tokens, weight {}, fingerprint {:016x}, "
          "checksum {:08x} then; {} with {} tokens, weight {}, fingerprint {:016x}, checksum {:08x} now; {}",
          options_.datasets[d].prefix, then.name, then.num_tokens, then.weight, then.fingerprint,
          then.contents, now.name, now.num_tokens, now.weight, now.fingerprint, now.contents, kWayOut);
  }
  if (cursor.samples_seen % options_.global_batch != 0)
    fail_user(
        "the checkpoint has seen {} samples, which is not a whole number of steps with a global batch of {}; "
        "{}",
        cursor.samples_seen, options_.global_batch, kWayOut);
  return cursor.samples_seen / options_.global_batch;
}

SequentialLoader::SequentialLoader(const std::string& prefix, int64_t sequence_length, int64_t vocab_size)
    : dataset_(prefix), sequence_length_(sequence_length), vocab_size_(vocab_size) {
  SPANWISE_CHECK(sequence_length > 0 && vocab_size > 0, "sequence_length={}, vocab_size={}", sequence_length,
                 vocab_size);
  if (dataset_.num_tokens() < 2)
    fail_user("dataset {} has {} tokens; predicting one from another takes two", prefix,
              dataset_.num_tokens());
}

int64_t SequentialLoader::num_samples() const {
  return (dataset_.num_tokens() - 1 + sequence_length_ - 1) / sequence_length_;
}

Batch SequentialLoader::load(int64_t first_sample, int64_t num_rows) const {
  SPANWISE_CHECK(first_sample >= 0 && num_rows >= 0 && first_sample + num_rows <= num_samples(),
                 "samples [{}, {}) of {} with {}", first_sample, first_sample + num_rows, dataset_.prefix(),
                 num_samples());
  Batch batch = make_batch(num_rows, sequence_length_);
  for (int64_t sample = first_sample; sample < first_sample + num_rows; ++sample)
    append_row(batch, dataset_, sample * sequence_length_, vocab_size_, documents_);
  return batch;
}

}  // namespace spanwise
