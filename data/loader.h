#pragma once
// Token batches for training and for held-out evaluation. A batch is a pure function of (options, step, row):
// ranks load their own rows and need not talk, and the step alone resumes the stream.
//
//   global sample n = step * global_batch + row  ->  (dataset, sample), see data/sample_order.h
//   tokens[row, t]  = token t of the sample
//   labels[row, t]  = token t + 1, or kIgnoreLabel where that is nothing to predict from here: by the rule of
//                     data/document_start.h the first token of another document, or its begin-of-document id
// Labels are shifted here, before rows or spans are given to ranks.

#include <cstdint>
#include <string>
#include <vector>

#include "data/document_start.h"
#include "data/indexed_dataset.h"
#include "data/sample_order.h"

namespace spanwise {

/// No loss at this position.
inline constexpr int32_t kIgnoreLabel = -100;

/// Some rows of a global batch; rows are sequences.
struct Batch {
  int64_t num_sequences = 0, sequence_length = 0;
  std::vector<int32_t> tokens;           // [num_sequences, sequence_length]
  std::vector<int32_t> labels;           // [num_sequences, sequence_length]
  std::vector<int64_t> document_starts;  // row * sequence_length + t where a document (by the rule) or the
                                         // row starts; ascending

  /// Labels that count in the loss.
  int64_t num_targets() const;
};

struct BlendedDataset {
  std::string prefix;  // of PREFIX.bin and PREFIX.idx
  double weight = 1;   // share of the samples, relative to the other datasets'
};

struct LoaderOptions {
  std::vector<BlendedDataset> datasets;
  int64_t sequence_length = 0;  // tokens
  int64_t global_batch = 0;     // sequences a step, over all ranks
  int64_t vocab_size = 0;       // a token outside is an error when it is loaded
  uint64_t seed = 0;
};

/// What a checkpoint keeps of the data: the position, and what the position is relative to.
struct DataCursor {
  struct Dataset {
    std::string name;
    double weight = 0;
    int64_t num_tokens = 0;
    uint64_t fingerprint = 0;  // IndexedDataset::fingerprint
    uint32_t contents = 0;     // DatasetMeta::contents; 0: without a table of checksums
  };
  int64_t samples_seen = 0;
  int64_t sequence_length = 0;
  uint64_t seed = 0;
  std::vector<Dataset> datasets;
};

class Loader {
 public:
  /// Opens every dataset. UserError if one is damaged, too small for a single sample, without any target, or
  /// has a weight that is not positive.
  explicit Loader(LoaderOptions options);

  /// Rows [first_row, first_row + num_rows) of the global batch of `step`. UserError naming file, position
  /// and token if a token is outside the vocabulary.
  Batch load(int64_t step, int64_t first_row, int64_t num_rows) const;
  /// Where documents begin in what load() gives; before it is said, kFirstToken.
  void set_documents(DocumentRule rule) { documents_ = rule; }

  /// The cursor after `step` steps.
  DataCursor cursor(int64_t step) const;
  /// The step to go on with. UserError if the cursor was written over other datasets, weights, seed or
  /// sequence length, or does not lie on a whole step of this global batch.
  int64_t resume(const DataCursor& cursor) const;

  /// Samples in one epoch of dataset d.
  int64_t num_samples(int d) const {
    return num_whole_samples(datasets_[d].num_tokens(), options_.sequence_length);
  }
  const std::vector<IndexedDataset>& datasets() const { return datasets_; }

 private:
  LoaderOptions options_;
  std::vector<IndexedDataset> datasets_;
  std::vector<DataCursor::Dataset> identities_;
  Blend blend_;
  DocumentRule documents_;
};

/// A dataset in file order, each token but its first once as a label: held-out perplexity. The last sample is
/// filled up with token 0 and kIgnoreLabel, so nothing is dropped.
class SequentialLoader {
 public:
  /// UserError if the dataset is damaged or has fewer than two tokens.
  SequentialLoader(const std::string& prefix, int64_t sequence_length, int64_t vocab_size);

  /// ceil((num_tokens - 1) / sequence_length).
  int64_t num_samples() const;
  /// Samples [first_sample, first_sample + num_rows), all within [0, num_samples()).
  Batch load(int64_t first_sample, int64_t num_rows) const;
  /// As Loader's.
  void set_documents(DocumentRule rule) { documents_ = rule; }
  const IndexedDataset& dataset() const { return dataset_; }

 private:
  IndexedDataset dataset_;
  int64_t sequence_length_, vocab_size_;
  DocumentRule documents_;
};

}  // namespace spanwise
