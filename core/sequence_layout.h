#pragma once
// How the B rows of T tokens of a batch are cut into documents. Every op that mixes tokens takes one; no
// state, convolution window or attention reaches across a document's start.

#include <cstdint>
#include <vector>

namespace spanwise {

/// Tokens [begin, end) of one row that belong to one document. Never empty.
struct Segment {
  int64_t row, begin, end;
  /// True for a row's first segment when no document starts at the row's first token: it goes on from the
  /// row's incoming state. False: it starts from zero.
  bool continues;
};

class SequenceLayout {
 public:
  /// B rows of T tokens, each one document that continues from the incoming state if there is one.
  SequenceLayout(int64_t batch, int64_t length);
  /// `document_starts`: sorted flat offsets row·T + t at which a document starts (its state is zero there).
  /// `first_positions` [B] (default 0): document-local position of each row's first token when it continues a
  /// document.
  SequenceLayout(int64_t batch, int64_t length, std::vector<int64_t> document_starts,
                 std::vector<int64_t> first_positions = {});

  int64_t batch() const { return batch_; }
  int64_t length() const { return length_; }
  int64_t num_tokens() const { return batch_ * length_; }
  /// Row-major, in order; they cover every token once.
  const std::vector<Segment>& segments() const { return segments_; }
  /// Segments of one row: [first, last) indices into segments().
  int64_t row_begin(int64_t row) const { return row_begin_[row]; }
  int64_t row_end(int64_t row) const { return row_begin_[row + 1]; }
  /// [B·T] position of each token in its document (for rotary embedding).
  const std::vector<int64_t>& positions() const { return positions_; }

 private:
  int64_t batch_, length_;
  std::vector<Segment> segments_;
  std::vector<int64_t> row_begin_, positions_;
};

}  // namespace spanwise
