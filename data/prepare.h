#pragma once
// Text files to indexed datasets: read in order, tokenised by several threads, written in order, so the
// output is the same for any number of threads. Every document ends with the tokenizer's end-of-document id
// and begins with its begin-of-document id. Where a tokenizer has none, the end of the document before stands
// for it (data/document_start.h), and the first document of a dataset begins with an end-of-document id.
// Memory holds one batch of documents (16 MiB of text, or the largest document if that is more) and its
// tokens.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/indexed_writer.h"
#include "data/text_files.h"
#include "data/tokenizer.h"

namespace spanwise {

/// What is held out for validation.
enum class Holdout {
  kNone,
  kDocuments,  // whole documents, evenly spread over the input: for corpora of many
  kTails,  // the last tokens of each document: for corpora of few and long ones. Both parts end a document.
};

struct PrepareProgress {
  int64_t bytes_read = 0, total_bytes = 0;  // of files as they lie, packed or not; total 0: not known
  int64_t num_documents = 0, num_tokens = 0;
};

struct PrepareOptions {
  TextFileOptions text;
  std::string output;  // prefix of the dataset; with a holdout, of OUTPUT_train and OUTPUT_valid
  Holdout holdout = Holdout::kNone;
  double holdout_fraction = 0;  // of the documents, or of each document's tokens
  int num_threads = 1;
  Overwrite overwrite = Overwrite::kRefuse;
  std::function<void(const PrepareProgress&)>
      progress;  // called after each batch and every fifth of a second, on the calling thread; may be empty
};

struct PreparedDataset {
  std::string prefix;
  int64_t num_documents = 0, num_tokens = 0;
};

struct PrepareResult {
  PreparedDataset train;
  std::optional<PreparedDataset> valid;
  int64_t num_empty_documents = 0;  // without text but spaces and line breaks, left out
  int64_t num_bad_records = 0;      // left out by BadRecords::kSkip
  std::string first_bad_record;     // what is wrong with the first of them
  int64_t num_ignored_files = 0;    // of other kinds, in folders
};

/// The prefixes that such a preparation writes.
std::vector<std::string> output_prefixes(const PrepareOptions& options);

/// UserError for unreadable or malformed input (path:line), an output that exists and may not be overwritten,
/// a full disk, or a part that would have no document. On any error no output file is left or changed.
PrepareResult prepare_dataset(const PrepareOptions& options, const Tokenizer& tokenizer);

}  // namespace spanwise
