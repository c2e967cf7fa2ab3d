#include "core/sequence_layout.h"

#include <gtest/gtest.h>

#include "core/check.h"

namespace spanwise {
namespace {

std::vector<std::vector<int64_t>> segments(const SequenceLayout& layout) {
  std::vector<std::vector<int64_t>> all;
  for (const Segment& s : layout.segments()) all.push_back({s.row, s.begin, s.end, s.continues});
  return all;
}

TEST(SequenceLayout, RowsWithoutDocumentStartsContinue) {
  EXPECT_EQ(segments(SequenceLayout(2, 3)), (std::vector<std::vector<int64_t>>{{0, 0, 3, 1}, {1, 0, 3, 1}}));
}

TEST(SequenceLayout, DocumentsAreSegmentsAndPositionsRestart) {
  const SequenceLayout layout(2, 4, {2, 4, 5}, {7, 9});
  EXPECT_EQ(segments(layout),
            (std::vector<std::vector<int64_t>>{{0, 0, 2, 1}, {0, 2, 4, 0}, {1, 0, 1, 0}, {1, 1, 4, 0}}));
  EXPECT_EQ(layout.positions(), (std::vector<int64_t>{7, 8, 0, 1, 0, 0, 1, 2}));
  EXPECT_EQ(layout.row_begin(1), 2);
  EXPECT_EQ(layout.row_end(1), 4);
}

TEST(SequenceLayout, RefusesStartsOutOfOrderOrRange) {
  EXPECT_THROW(SequenceLayout(1, 4, {2, 2}), Error);
  EXPECT_THROW(SequenceLayout(1, 4, {4}), Error);
  EXPECT_THROW(SequenceLayout(0, 4), Error);
}

}  // namespace
}  // namespace spanwise
