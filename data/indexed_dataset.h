#pragma once
// Megatron indexed datasets, read: PREFIX.bin holds the tokens of all documents one after another, PREFIX.idx
// where each sequence and document starts. A document is the concatenation of its sequences, the dataset that
// of its documents; positions count tokens from the start of the dataset.
//
// .idx, little-endian, unaligned:
//   "MMIDIDX\0\0"  u64 version = 1  u8 dtype  u64 N sequences  u64 D = documents + 1
//   i32[N] tokens of a sequence   i64[N] its byte offset in .bin   i64[D] first sequence of a document (first
//   0, last N) i8[N] modes (optional, not read)
//
// PREFIX.meta.json, if there is one, has the checksum of every block of 64 MiB of both files: .idx is
// compared when it is opened, a block of .bin when it is first read.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/file_io.h"
#include "data/dataset_meta.h"

namespace spanwise {

/// How a token is stored in .bin; the values are the format's dtype codes.
enum class TokenDtype : uint8_t { kU8 = 1, kI8 = 2, kI16 = 3, kI32 = 4, kI64 = 5, kU16 = 8 };

/// Bytes of one token.
int64_t token_bytes(TokenDtype dtype);

/// Files are read, not mapped: one that is cut short while it is in use is a UserError with its name, not a
/// SIGBUS. Opening reads .idx and the sizes and tables of the rest; memory is O(1) but for the tables. Safe
/// to share between threads.
class IndexedDataset {
 public:
  /// Opens PREFIX.bin and PREFIX.idx. UserError, naming the file and the fault, if either is missing, the
  /// header is not one of a token dataset, the counts do not fit the file sizes, offsets do not run through
  /// .bin without gaps, or the document array does not rise from 0 to N; or if PREFIX.meta.json is damaged or
  /// does not belong to them.
  explicit IndexedDataset(const std::string& prefix);

  const std::string& prefix() const { return prefix_; }
  /// The last component of the prefix: the key of the sample order, so that moving a dataset keeps its order.
  std::string name() const;
  TokenDtype dtype() const { return dtype_; }
  int64_t num_documents() const { return num_documents_; }
  int64_t num_tokens() const;

  /// Position of the first token of document i; document_begin(num_documents()) = num_tokens().
  int64_t document_begin(int64_t i) const;
  int64_t document_size(int64_t i) const { return document_begin(i + 1) - document_begin(i); }
  /// The first document that starts at `position` or later; num_documents() if none does.
  int64_t first_document_at(int64_t position) const;

  /// Copies tokens [position, position + count) to out. UserError if one of them does not fit int32, if a
  /// block they lie in does not have its checksum, or if .bin has become shorter.
  void read(int64_t position, int64_t count, int32_t* out) const;

  /// UserError if the table says that another tokenizer prepared the dataset.
  void check_tokenizer(const Tokenizer& tokenizer) const;
  /// Scans all tokens with `num_threads` threads. UserError naming the file, the position and the token if
  /// one is outside [0, vocab_size).
  void check_vocabulary(int64_t vocab_size, int num_threads = 1) const;
  /// The same for tokens already read from `position` on.
  void check_vocabulary(const int32_t* tokens, int64_t count, int64_t position, int64_t vocab_size) const;

  /// Checksums and what prepared the dataset; nothing for one that can only be used unverified.
  const std::optional<DatasetMeta>& meta() const { return meta_; }
  /// Compares every block of .bin with the table, with `num_threads` threads; `progress` is given the bytes
  /// read so far, on the calling thread. UserError naming the first block that differs. Needs meta().
  void verify(int num_threads = 1, const std::function<void(int64_t)>& progress = {}) const;

  /// 64 bits that tell one dataset from another: a hash of all of .idx and of the first and last 64 KiB of
  /// .bin.
  uint64_t fingerprint() const;

 private:
  void check_header();
  void check_sequences() const;
  void check_documents() const;
  int32_t sequence_size(int64_t i) const;
  int64_t sequence_offset_bytes(int64_t i) const;
  int64_t document_sequence(int64_t i) const;

  void check_meta();
  /// Bytes [begin, begin + count) of a file belong to blocks that have their checksums.
  void verify_blocks(uint64_t begin, uint64_t count) const;

  std::string prefix_;
  File bin_, idx_;
  int64_t bin_bytes_ = 0, idx_bytes_ = 0;  // when they were opened
  std::optional<DatasetMeta> meta_;
  std::unique_ptr<std::atomic<bool>[]> verified_;  // of each block of .bin
  TokenDtype dtype_{};
  int64_t num_sequences_ = 0, num_documents_ = 0;
  uint64_t sizes_ = 0, offsets_ = 0, documents_ = 0;  // where the arrays begin in .idx
};

}  // namespace spanwise
