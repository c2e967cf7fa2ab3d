#include "core/tensor.h"

#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

Tensor counting(const Shape& shape) {
  Tensor t = Tensor::empty(test_context(), shape, DType::kF64);
  for (int64_t i = 0; i < t.numel(); ++i) t.data<double>()[i] = double(i);
  return t;
}

TEST(Tensor, ColumnBlocksAreViewsWithARowStride) {
  const Tensor wide = counting({2, 3, 8});
  const Tensor block = wide.column_range(2, 6);
  EXPECT_EQ(block.shape(), Shape({2, 3, 4}));
  EXPECT_FALSE(block.contiguous());
  EXPECT_EQ(block.row_stride(4), 8);
  EXPECT_EQ(block.to_contiguous(test_context()).to_vector<double>()[5], 8 + 2 + 1);
  block.data<double>()[0] = -1;
  EXPECT_EQ(wide.data<double>()[2], -1);
}

TEST(Tensor, ColumnBlocksReshapeOnEitherSideOfTheRowBorderOnly) {
  const Tensor block = counting({6, 8}).column_range(2, 6);
  const Tensor heads = block.reshape({2, 3, 2, 2});
  EXPECT_EQ(heads.row_stride(4), 8);
  EXPECT_TRUE(bitwise_equal(heads.to_contiguous(test_context()).reshape({6, 4}), block));
  EXPECT_THROW(block.reshape({3, 8}), Error);
}

TEST(Tensor, RowRangesOfColumnBlocks) {
  const Tensor rows = counting({6, 8}).column_range(2, 6).row_range(1, 3);
  EXPECT_EQ(rows.to_contiguous(test_context()).to_vector<double>(),
            (std::vector<double>{10, 11, 12, 13, 18, 19, 20, 21}));
}

TEST(Tensor, ChecksNameWhatIsWrong) {
  const Tensor t = counting({2, 3});
  EXPECT_THROW(t.reshape({4}), Error);
  EXPECT_THROW(t.row_range(1, 3), Error);
  EXPECT_THROW(t.data<float>(), Error);
  EXPECT_THROW(Tensor().data<double>(), Error);
}

TEST(Context, FreedMemoryIsHandedOutAgainAndPeaksAreSeen) {
  Context ctx;
  const size_t mib = 1 << 20;
  {
    const Tensor a = Tensor::empty(ctx, {int64_t(mib)}, DType::kU8),
                 b = Tensor::empty(ctx, {int64_t(mib)}, DType::kU8);
    EXPECT_EQ(ctx.memory().live_bytes, 2 * mib);
  }
  EXPECT_EQ(ctx.memory().live_bytes, 0u);
  EXPECT_EQ(ctx.memory().peak_bytes, 2 * mib);
  const size_t reserved = ctx.memory().reserved_bytes;
  const Tensor c = Tensor::empty(ctx, {int64_t(mib)}, DType::kU8);
  EXPECT_EQ(ctx.memory().reserved_bytes, reserved);
  ctx.reset_peak();
  EXPECT_EQ(ctx.memory().peak_bytes, mib);
}

TEST(Context, TensorsMayOutliveTheirContext) {
  Tensor t;
  {
    Context ctx;
    t = Tensor::zeros(ctx, {4}, DType::kF64);
  }
  EXPECT_EQ(t.to_vector<double>(), std::vector<double>(4, 0.0));
}

}  // namespace
}  // namespace spanwise::testing
