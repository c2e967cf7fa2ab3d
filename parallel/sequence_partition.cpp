#include "parallel/sequence_partition.h"

#include <algorithm>

#include "core/check.h"

namespace spanwise {

SequencePartition::SequencePartition(Partition kind, int num_ranks, int64_t length)
    : kind_(kind), num_ranks_(num_ranks), length_(length) {
  SPANWISE_CHECK(num_ranks >= 1 && length >= 1, "cannot cut {} tokens over {} ranks", length, num_ranks);
}

int64_t SequencePartition::begin(int part) const {
  return std::min(part * capacity(), length_);
}

int64_t SequencePartition::end(int part) const {
  return std::min((part + 1) * capacity(), length_);
}

SequencePlan::SequencePlan(const SequencePartition& partition, int rank, int64_t batch,
                           std::vector<int64_t> document_starts)
    : partition_(partition),
      rank_(rank),
      batch_(batch),
      starts_(std::move(document_starts)),
      local_(make_local()) {}

SequenceLayout SequencePlan::make_local() const {
  const int64_t length = partition_.length(), capacity = partition_.capacity();
  SPANWISE_CHECK(rank_ >= 0 && rank_ < partition_.num_ranks(), "rank {} of {}", rank_,
                 partition_.num_ranks());
  SPANWISE_CHECK(std::is_sorted(starts_.begin(), starts_.end()), "document starts are out of order");
  for (int64_t row = 0; row < batch_; ++row) {
    SPANWISE_CHECK(std::binary_search(starts_.begin(), starts_.end(), row * length),
                   "row {}'s first token does not start a document", row);
  }
  std::vector<int64_t> local_starts, first_positions;
  for (int64_t row = 0; row < batch_; ++row) {
    for (int slot = 0; slot < partition_.slots(); ++slot) {
      const int part = partition_.part(rank_, slot);
      const int64_t begin = partition_.begin(part), end = partition_.end(part);
      const int64_t local_begin = (row * partition_.slots() + slot) * capacity;
      const auto first = std::lower_bound(starts_.begin(), starts_.end(), row * length + begin);
      const auto last = std::lower_bound(first, starts_.end(), row * length + end);
      for (auto start = first; start != last; ++start)
        local_starts.push_back(local_begin + *start - row * length - begin);
      if (end - begin < capacity) local_starts.push_back(local_begin + end - begin);
      first_positions.push_back(begin < end ? begin - document_begin(row, begin) : 0);
    }
  }
  return {num_local_rows(), capacity, std::move(local_starts), std::move(first_positions)};
}

std::vector<int32_t> SequencePlan::take(const std::vector<int32_t>& whole, int32_t padding) const {
  const int64_t length = partition_.length(), capacity = partition_.capacity();
  SPANWISE_CHECK(int64_t(whole.size()) == batch_ * length, "{} values for {} rows of {} tokens", whole.size(),
                 batch_, length);
  std::vector<int32_t> mine(size_t(num_local_rows() * capacity), padding);
  auto out = mine.begin();
  for (int64_t row = 0; row < batch_; ++row) {
    for (int slot = 0; slot < partition_.slots(); ++slot, out += capacity) {
      const int part = partition_.part(rank_, slot);
      const auto row_begin = whole.begin() + row * length;
      std::copy(row_begin + partition_.begin(part), row_begin + partition_.end(part), out);
    }
  }
  return mine;
}

bool SequencePlan::continues(int64_t row, int part) const {
  const int64_t begin = partition_.begin(part);
  return begin < partition_.end(part) && document_begin(row, begin) < begin;
}

bool SequencePlan::passes_through(int64_t row, int part) const {
  const int64_t begin = partition_.begin(part), end = partition_.end(part);
  return begin < end && document_begin(row, end - 1) < begin;
}

int64_t SequencePlan::document_begin(int64_t row, int64_t token) const {
  const int64_t base = row * partition_.length();
  return *(std::upper_bound(starts_.begin(), starts_.end(), base + token) - 1) - base;
}

}  // namespace spanwise
