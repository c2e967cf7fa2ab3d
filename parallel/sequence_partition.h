#pragma once
// Which tokens and documents each sequence rank owns. The table is the same on every rank, so folding states
// needs no further communication about documents.
//
//   contiguous   W parts, rank r owns part r
//   zigzag       2W parts, rank r owns parts r and 2W − 1 − r: causal attention's work is the same on every
//   rank
//
// Parts follow each other along the sequence, `capacity` = ceil(T / parts) tokens each; the last ones may be
// shorter or empty. A rank's micro-batch is B · slots local rows of `capacity` tokens (row b · slots + slot):
// every op sees parts as rows. Missing tokens are padding: a document of their own behind the row's tokens,
// without labels, so they change nothing and a rank whose rows are all padding does its share of every
// collective.

#include <cstdint>
#include <vector>

#include "core/sequence_layout.h"

namespace spanwise {

enum class Partition { kContiguous, kZigzag };

class SequencePartition {
 public:
  SequencePartition(Partition kind, int num_ranks, int64_t length);
  int num_ranks() const { return num_ranks_; }
  int slots() const { return kind_ == Partition::kZigzag ? 2 : 1; }
  int num_parts() const { return num_ranks_ * slots(); }
  int64_t length() const { return length_; }
  int64_t capacity() const { return (length_ + num_parts() - 1) / num_parts(); }
  /// Part held by a rank in a slot; ascending in the slot.
  int part(int rank, int slot) const { return slot == 0 ? rank : num_parts() - 1 - rank; }
  int owner(int part) const { return part < num_ranks_ ? part : num_parts() - 1 - part; }
  int slot(int part) const { return part < num_ranks_ ? 0 : 1; }
  /// Tokens [begin, end) of a row that a part holds; may be empty.
  int64_t begin(int part) const;
  int64_t end(int part) const;

 private:
  Partition kind_;
  int num_ranks_;
  int64_t length_;
};

/// One micro-batch cut over the sequence ranks, seen from one of them.
class SequencePlan {
 public:
  /// `document_starts`: sorted flat offsets b · T + t of the whole rows; every row's first token is one.
  SequencePlan(const SequencePartition& partition, int rank, int64_t batch,
               std::vector<int64_t> document_starts);

  const SequencePartition& partition() const { return partition_; }
  int rank() const { return rank_; }
  int64_t batch() const { return batch_; }
  int64_t num_local_rows() const { return batch_ * partition_.slots(); }
  /// The local rows: their documents, continuing where the part's first token does not start one, with
  /// positions inside the documents.
  const SequenceLayout& local() const { return local_; }
  /// This rank's tokens or labels out of whole rows [B · T]; `padding` fills the missing ones.
  std::vector<int32_t> take(const std::vector<int32_t>& whole, int32_t padding) const;
  /// True if row b's part `part` (not empty) goes on with the document of the token before it.
  bool continues(int64_t row, int part) const;
  /// True if no document starts anywhere in the part: its M carries the incoming state through. Empty parts
  /// do not.
  bool passes_through(int64_t row, int part) const;
  /// First token of the document that token t of row b belongs to.
  int64_t document_begin(int64_t row, int64_t token) const;

 private:
  SequenceLayout make_local() const;
  SequencePartition partition_;
  int rank_;
  int64_t batch_;
  std::vector<int64_t> starts_;
  SequenceLayout local_;
};

}  // namespace spanwise
