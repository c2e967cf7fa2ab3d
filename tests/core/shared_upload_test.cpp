#include "core/shared_upload.h"

#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

std::vector<int32_t> read(const Tensor& uploaded) {
  std::vector<int32_t> values(uploaded.bytes() / sizeof(int32_t));
  uploaded.copy_to_host(values.data(), uploaded.bytes());
  return values;
}

TEST(SharedUpload, EqualArraysShareOneCopy) {
  Context& ctx = test_context();
  const std::vector<int32_t> values{1, 2, 3};
  const Tensor first = shared_upload(ctx, values);
  EXPECT_TRUE(first.shares_memory_with(shared_upload(ctx, std::vector<int32_t>{1, 2, 3})));
  EXPECT_FALSE(first.shares_memory_with(shared_upload(ctx, std::vector<int32_t>{1, 2})));
  EXPECT_FALSE(first.shares_memory_with(shared_upload(ctx, std::vector<int32_t>{1, 2, 4})));
  EXPECT_EQ(read(first), values);
}

TEST(SharedUpload, MoreArraysThanItKeepsAllHoldTheirValues) {
  std::vector<Tensor> uploads;
  for (int32_t i = 0; i < 50; ++i)
    uploads.push_back(shared_upload(test_context(), std::vector<int32_t>{i, -i}));
  for (int32_t i = 0; i < 50; ++i) EXPECT_EQ(read(uploads[i]), (std::vector<int32_t>{i, -i}));
  EXPECT_EQ(read(shared_upload(test_context(), std::vector<int32_t>{3, -3})), (std::vector<int32_t>{3, -3}));
  EXPECT_EQ(shared_upload(test_context(), std::vector<int32_t>{}).numel(), 0);
}

}  // namespace
}  // namespace spanwise::testing
