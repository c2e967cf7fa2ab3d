#include "parallel/sequence_partition.h"

#include <gtest/gtest.h>

#include <numeric>

#include "core/check.h"

namespace spanwise {
namespace {

std::vector<int32_t> numbered(int64_t n) {
  std::vector<int32_t> values(static_cast<size_t>(n));
  std::iota(values.begin(), values.end(), 0);
  return values;
}

TEST(SequencePartition, PartsCoverEveryTokenOnceInOrder) {
  for (const Partition kind : {Partition::kContiguous, Partition::kZigzag}) {
    for (const int ranks : {1, 2, 3, 4}) {
      for (const int64_t length : {1, 2, 5, 7, 8, 16, 17, 33}) {
        const SequencePartition partition(kind, ranks, length);
        int64_t at = 0;
        for (int part = 0; part < partition.num_parts(); ++part) {
          EXPECT_EQ(partition.begin(part), at);
          EXPECT_LE(partition.end(part) - at, partition.capacity());
          at = partition.end(part);
        }
        EXPECT_EQ(at, length);
      }
    }
  }
}

TEST(SequencePartition, OwnerAndSlotInvertPart) {
  for (const Partition kind : {Partition::kContiguous, Partition::kZigzag}) {
    const SequencePartition partition(kind, 3, 20);
    for (int rank = 0; rank < 3; ++rank) {
      for (int slot = 0; slot < partition.slots(); ++slot) {
        EXPECT_EQ(partition.owner(partition.part(rank, slot)), rank);
        EXPECT_EQ(partition.slot(partition.part(rank, slot)), slot);
      }
    }
  }
}

TEST(SequencePartition, ZigzagGivesEveryRankTheSameCausalWork) {
  const SequencePartition partition(Partition::kZigzag, 4, 64);
  for (int rank = 0; rank < 4; ++rank)
    EXPECT_EQ(partition.begin(partition.part(rank, 0)) + partition.begin(partition.part(rank, 1)), 56);
}

TEST(SequencePlan, TakesEachTokenOnceAndPadsTheRest) {
  const int64_t length = 11, batch = 2;
  for (const Partition kind : {Partition::kContiguous, Partition::kZigzag}) {
    std::vector<int> seen(size_t(batch * length));
    int64_t padding = 0;
    for (int rank = 0; rank < 4; ++rank) {
      const SequencePlan plan({kind, 4, length}, rank, batch, {0, 11});
      for (const int32_t value : plan.take(numbered(batch * length), -1)) {
        if (value < 0)
          ++padding;
        else
          ++seen[size_t(value)];
      }
    }
    EXPECT_EQ(seen, std::vector<int>(size_t(batch * length), 1));
    EXPECT_EQ(padding, batch * ((kind == Partition::kContiguous ? 12 : 16) - length));
  }
}

// T = 12 over 4 ranks of 3 tokens: a start on a border (6), one before a border (5), one after (10).
TEST(SequencePlan, DocumentsOnAndBesideBordersContinueWhereTheyShould) {
  const SequencePartition partition(Partition::kContiguous, 4, 12);
  const SequencePlan plan(partition, 0, 2, {0, 5, 6, 10, 12});
  const bool continues[4] = {false, true, false, true}, passes[4] = {false, false, false, false};
  for (int part = 0; part < 4; ++part) {
    EXPECT_EQ(plan.continues(0, part), continues[part]) << part;
    EXPECT_EQ(plan.passes_through(0, part), passes[part]) << part;
    EXPECT_EQ(plan.continues(1, part), part > 0) << part;
    EXPECT_EQ(plan.passes_through(1, part), part > 0) << part;
  }
  EXPECT_EQ(plan.document_begin(0, 4), 0);
  EXPECT_EQ(plan.document_begin(0, 5), 5);
  EXPECT_EQ(plan.document_begin(0, 11), 10);
  EXPECT_EQ(plan.document_begin(1, 11), 0);
}

TEST(SequencePlan, LocalPositionsAreTheWholeRows) {
  const int64_t length = 13, batch = 2;
  const std::vector<int64_t> starts{0, 1, 5, 6, 13, 20};
  const SequenceLayout whole(batch, length, starts);
  const std::vector<int32_t> positions(whole.positions().begin(), whole.positions().end());
  for (const Partition kind : {Partition::kContiguous, Partition::kZigzag}) {
    for (int rank = 0; rank < 3; ++rank) {
      const SequencePlan plan({kind, 3, length}, rank, batch, starts);
      const std::vector<int32_t> expected = plan.take(positions, -1);
      for (size_t i = 0; i < expected.size(); ++i) {
        if (expected[i] < 0) continue;
        EXPECT_EQ(plan.local().positions()[i], expected[i]) << rank << " " << i;
      }
    }
  }
}

TEST(SequencePlan, PaddingIsADocumentOfItsOwn) {
  // Seven tokens: two a rank, one on the last.
  const SequencePartition partition(Partition::kContiguous, 4, 7);
  ASSERT_EQ(partition.capacity(), 2);
  const SequencePlan partial(partition, 3, 1, {0});
  ASSERT_EQ(partial.local().segments().size(), 2u);
  EXPECT_TRUE(partial.local().segments()[0].continues);
  EXPECT_FALSE(partial.local().segments()[1].continues);
  EXPECT_EQ(partial.local().segments()[1].begin, 1);

  const SequencePlan empty({Partition::kContiguous, 4, 5}, 3, 1, {0});
  ASSERT_EQ(empty.local().segments().size(), 1u);
  EXPECT_FALSE(empty.local().segments()[0].continues);
  EXPECT_FALSE(empty.continues(0, 3));
  EXPECT_FALSE(empty.passes_through(0, 3));
}

TEST(SequencePlan, RefusesARowThatStartsNoDocument) {
  EXPECT_THROW(SequencePlan({Partition::kContiguous, 2, 8}, 0, 2, {0, 9}), Error);
}

}  // namespace
}  // namespace spanwise
