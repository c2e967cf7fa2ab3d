#pragma once
// Megatron indexed datasets, written (layout: data/indexed_dataset.h), with their checksums
// (data/dataset_meta.h). Tokens are stored as u16 if the vocabulary has fewer than 65,500 tokens, else as
// i32; every document is one sequence.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/file_io.h"
#include "data/indexed_dataset.h"

namespace spanwise {

enum class Overwrite { kRefuse, kAllow };

/// UserError if PREFIX holds a dataset, or files that are no half of one that was killed while it was
/// written.
void require_free(const std::string& prefix);
/// Removes what killed writers of PREFIX left under temporary names.
void remove_partial_files(const std::string& prefix);

/// Streams documents to PREFIX.bin.partial, .idx.partial and .meta.json.partial; finish() gives them their
/// names. Without finish() (an exception, say) the destructor removes them and whatever stood at PREFIX is
/// untouched.
///
/// finish() removes the old index, puts table, tokens and index in place in this order, and syncs the
/// directory before and behind: whatever is there with an index belongs together. A process killed meanwhile
/// leaves tokens without an index; where the table says that they are such a half, the next writer replaces
/// them. Partial files of a killed process go when the prefix is next written: a writer holds a lock on its
/// own.
class IndexedDatasetWriter {
 public:
  /// Creates the directory of the prefix if need be. UserError if it is not writable, if PREFIX.bin or
  /// PREFIX.idx exists and overwriting is refused, or if another process is writing the same prefix.
  IndexedDatasetWriter(const std::string& prefix, int64_t vocab_size,
                       Overwrite overwrite = Overwrite::kRefuse);
  ~IndexedDatasetWriter();
  IndexedDatasetWriter(const IndexedDatasetWriter&) = delete;
  IndexedDatasetWriter& operator=(const IndexedDatasetWriter&) = delete;

  /// What the table says of the tokenizer.
  void set_tokenizer(TokenizerIdentity tokenizer) { meta_.tokenizer = std::move(tokenizer); }
  /// Appends a document of at least one token. UserError if the disk is full.
  void add_document(std::span<const int32_t> tokens);
  /// Writes index and table and syncs all under their temporary names: from here on only renames can fail.
  void seal();
  /// Seals if need be and puts the files in place.
  void finish();

  const std::string& prefix() const { return prefix_; }
  int64_t num_documents() const { return int64_t(document_sizes_.size()); }
  int64_t num_tokens() const { return num_tokens_; }

 private:
  void write_index();

  std::string prefix_;
  int lock_ = -1;
  DatasetMeta meta_;
  int64_t vocab_size_, num_tokens_ = 0;
  TokenDtype dtype_;
  std::optional<File> bin_;  // closed by seal()
  bool finished_ = false;
  std::vector<int32_t> document_sizes_;
  std::vector<uint16_t> narrow_;  // scratch of add_document
};

}  // namespace spanwise
