#pragma once
// Megatron indexed datasets, written (layout: data/indexed_dataset.h). Tokens are stored as u16 if the
// vocabulary has fewer than 65,500 tokens, else as i32; every document is one sequence.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/file_io.h"
#include "data/indexed_dataset.h"

namespace spanwise {

enum class Overwrite { kRefuse, kAllow };

/// Streams documents to temporary names beside PREFIX.bin and PREFIX.idx; finish() renames them. Without
/// finish() (an exception, say) the destructor removes them and whatever stood at PREFIX is untouched.
class IndexedDatasetWriter {
 public:
  /// Creates the directory of the prefix if need be. UserError if it is not writable, or if PREFIX.bin or
  /// PREFIX.idx exists and overwriting is refused.
  IndexedDatasetWriter(const std::string& prefix, int64_t vocab_size,
                       Overwrite overwrite = Overwrite::kRefuse);
  ~IndexedDatasetWriter();
  IndexedDatasetWriter(const IndexedDatasetWriter&) = delete;
  IndexedDatasetWriter& operator=(const IndexedDatasetWriter&) = delete;

  /// Appends a document of at least one token. UserError if the disk is full.
  void add_document(std::span<const int32_t> tokens);
  /// Writes the index and syncs both files under their temporary names: from here on only renames can fail.
  void seal();
  /// Seals if need be and puts both files in place.
  void finish();

  const std::string& prefix() const { return prefix_; }
  int64_t num_documents() const { return int64_t(document_sizes_.size()); }
  int64_t num_tokens() const { return num_tokens_; }

 private:
  void write_index() const;

  std::string prefix_, partial_bin_, partial_idx_;
  int64_t vocab_size_, num_tokens_ = 0;
  TokenDtype dtype_;
  std::optional<File> bin_;  // closed by seal()
  bool finished_ = false;
  std::vector<int32_t> document_sizes_;
  std::vector<uint16_t> narrow_;  // scratch of add_document
};

}  // namespace spanwise
