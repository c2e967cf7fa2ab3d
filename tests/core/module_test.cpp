// Runs of elements of a sharded parameter: every local element maps to its place in the whole.

#include "core/module.h"

#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

std::vector<int64_t> global_indices(const Param& param) {
  std::vector<int64_t> indices;
  for (const ElementRun& run : element_runs(param)) {
    EXPECT_EQ(run.local, int64_t(indices.size()));
    for (int64_t i = 0; i < run.count; ++i) indices.push_back(run.global + i);
  }
  return indices;
}

TEST(ElementRuns, AWholeParameterIsOneRun) {
  const std::vector<ElementRun> runs = element_runs({{3, 5}, init::constant(0)});
  ASSERT_EQ(runs.size(), 1u);
  EXPECT_EQ(runs[0].count, 15);
}

TEST(ElementRuns, ShardedRowsAndColumnsOfSeveralRangesMapToTheWhole) {
  const Param rows{{3, 2}, init::constant(0), true, {.global = {6, 2}, .dim = 0, .ranges = {{1, 2}, {4, 6}}}};
  EXPECT_EQ(global_indices(rows), (std::vector<int64_t>{2, 3, 8, 9, 10, 11}));
  const Param columns{
      {2, 3}, init::constant(0), true, {.global = {2, 6}, .dim = 1, .ranges = {{1, 2}, {4, 6}}}};
  EXPECT_EQ(global_indices(columns), (std::vector<int64_t>{1, 4, 5, 7, 10, 11}));
  const Param middle{{2, 1, 3}, init::constant(0), true, {.global = {2, 2, 3}, .dim = 1, .ranges = {{1, 2}}}};
  EXPECT_EQ(global_indices(middle), (std::vector<int64_t>{3, 4, 5, 9, 10, 11}));
}

TEST(ElementRuns, RefuseAPlacementThatDoesNotFitTheShape) {
  const auto runs = [](Shape local, Placement placement) {
    return element_runs({local, init::constant(0), true, std::move(placement)});
  };
  EXPECT_THROW(runs({2, 2}, {.global = {6, 2}, .ranges = {{0, 3}}}), Error);
  EXPECT_THROW(runs({2, 2}, {.global = {3, 2}, .ranges = {{2, 4}}}), Error);
  EXPECT_THROW(runs({2, 2}, {.global = {6, 3}, .ranges = {{0, 2}}}), Error);
  EXPECT_THROW(runs({2, 2}, {.global = {6, 2}, .ranges = {{1, 2}, {0, 1}}}), Error);
  EXPECT_THROW(runs({2}, {.global = {6, 2}, .ranges = {{0, 2}}}), Error);
}

}  // namespace
}  // namespace spanwise::testing
