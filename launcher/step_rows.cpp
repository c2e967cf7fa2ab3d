#include "launcher/step_rows.h"

#include <algorithm>

#include "launcher/config/derived.h"

namespace spanwise {

namespace {

Batch batch_of_documents(const config::TrainConfig& train, int64_t vocab_size, int64_t document_tokens) {
  const int64_t rows = train.micro_batch(), length = train.sequence_length(),
                step = document_tokens > 0 ? document_tokens : length;
  Batch batch{.num_sequences = rows, .sequence_length = length};
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t at = 0; at < length; at += step) batch.document_starts.push_back(row * length + at);
  }
  batch.tokens.resize(size_t(rows * length));
  for (size_t i = 0; i < batch.tokens.size(); ++i) batch.tokens[i] = int32_t(int64_t(i) % vocab_size);
  batch.labels = batch.tokens;
  return batch;
}

}  // namespace

StepRows rows_of_documents(const RunConfig& config, int64_t vocab_size, int world_size,
                           int64_t document_tokens) {
  const Batch batch = batch_of_documents(config.train(), vocab_size, document_tokens);
  return {.passes = accumulation_passes(config, world_size),
          .micro_batch = [batch](int, int64_t) { return batch; },
          .alike = true};
}

StepRows rows_of_data(const RunConfig& config, int world_size, const Loader& loader, int64_t step) {
  const int64_t rows = config.train().micro_batch(), ranks = data_ranks(config.parallel(), world_size);
  return {.passes = accumulation_passes(config, world_size),
          .micro_batch = [&loader, step, rows, ranks](int data, int64_t pass) {
            return loader.load(step, (pass * ranks + data) * rows, rows);
          }};
}

}  // namespace spanwise
