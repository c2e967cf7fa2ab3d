#include "core/sequence_layout.h"

#include "core/check.h"

namespace spanwise {

SequenceLayout::SequenceLayout(int64_t batch, int64_t length) : SequenceLayout(batch, length, {}) {}

SequenceLayout::SequenceLayout(int64_t batch, int64_t length, std::vector<int64_t> starts,
                               std::vector<int64_t> first_positions)
    : batch_(batch), length_(length), positions_(size_t(batch * length)) {
  SPANWISE_CHECK(batch >= 1 && length >= 1, "a batch of {} rows of {} tokens is empty", batch, length);
  if (first_positions.empty()) first_positions.assign(size_t(batch), 0);
  SPANWISE_CHECK(int64_t(first_positions.size()) == batch, "{} first positions for {} rows",
                 first_positions.size(), batch);
  for (size_t i = 0; i < starts.size(); ++i) {
    SPANWISE_CHECK(starts[i] >= 0 && starts[i] < num_tokens() && (i == 0 || starts[i] > starts[i - 1]),
                   "document start {} at index {} is out of order or out of range", starts[i], i);
  }
  size_t next = 0;
  for (int64_t row = 0; row < batch; ++row) {
    row_begin_.push_back(int64_t(segments_.size()));
    const int64_t base = row * length;
    int64_t begin = 0;
    bool continues = true;
    if (next < starts.size() && starts[next] == base) {
      continues = false;
      ++next;
    }
    while (begin < length) {
      const bool more = next < starts.size() && starts[next] < base + length;
      const int64_t end = more ? starts[next++] - base : length;
      segments_.push_back({row, begin, end, continues});
      const int64_t first = continues ? first_positions[row] : 0;
      for (int64_t t = begin; t < end; ++t) positions_[base + t] = first + t - begin;
      begin = end;
      continues = false;
    }
  }
  row_begin_.push_back(int64_t(segments_.size()));
}

}  // namespace spanwise
