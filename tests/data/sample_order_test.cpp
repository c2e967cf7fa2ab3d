#include "data/sample_order.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/check.h"

namespace spanwise {
namespace {

std::vector<int64_t> order(int64_t size, uint64_t seed, const char* name, int64_t epoch) {
  const Permutation permutation(size, seed, name, epoch);
  std::vector<int64_t> values(size);
  for (int64_t i = 0; i < size; ++i) values[i] = permutation(i);
  return values;
}

TEST(SampleOrder, TheLastLabelOfASampleIsTheFirstInputOfTheNext) {
  EXPECT_EQ(num_whole_samples(0, 4), 0);
  EXPECT_EQ(num_whole_samples(4, 4), 0);
  EXPECT_EQ(num_whole_samples(5, 4), 1);
  EXPECT_EQ(num_whole_samples(8, 4), 1);
  EXPECT_EQ(num_whole_samples(9, 4), 2);
}

TEST(Permutation, IsABijectionForEverySize) {
  for (const int64_t size : {1, 2, 3, 4, 5, 7, 16, 17, 63, 64, 65, 1000, 4097}) {
    std::vector<int64_t> values = order(size, 1, "corpus", 0), identity(size);
    std::sort(values.begin(), values.end());
    std::iota(identity.begin(), identity.end(), 0);
    EXPECT_EQ(values, identity) << size;
  }
}

TEST(Permutation, DependsOnSeedNameAndEpochAndOnNothingElse) {
  const auto base = order(100, 1, "corpus", 0);
  EXPECT_EQ(order(100, 1, "corpus", 0), base);
  EXPECT_NE(order(100, 2, "corpus", 0), base);
  EXPECT_NE(order(100, 1, "other", 0), base);
  EXPECT_NE(order(100, 1, "corpus", 1), base);
}

TEST(Permutation, SendsEveryElementEverywhereEquallyOften) {
  constexpr int64_t kSize = 10, kEpochs = 10000;
  std::vector<std::vector<int>> counts(kSize, std::vector<int>(kSize));
  for (int64_t epoch = 0; epoch < kEpochs; ++epoch) {
    const auto values = order(kSize, 3, "x", epoch);
    for (int64_t i = 0; i < kSize; ++i) ++counts[i][values[i]];
  }
  // Binomial with mean 1000 and deviation 30.
  for (const auto& row : counts)
    for (const int count : row) EXPECT_NEAR(count, kEpochs / kSize, 160);
}

TEST(Permutation, WorksForAsManySamplesAsADatasetCanHave) {
  const int64_t size = (int64_t{1} << 40) + 7;
  const Permutation permutation(size, 1, "corpus", 0);
  for (int64_t i = 0; i < 100; ++i) {
    EXPECT_GE(permutation(size - 1 - i), 0);
    EXPECT_LT(permutation(size - 1 - i), size);
  }
}

TEST(Permutation, RefusesElementsOutside) {
  const Permutation permutation(5, 1, "corpus", 0);
  EXPECT_THROW(permutation(5), Error);
  EXPECT_THROW(permutation(-1), Error);
  EXPECT_THROW(Permutation(0, 1, "corpus", 0), Error);
}

class BlendTest : public testing::TestWithParam<std::vector<double>> {};

TEST_P(BlendTest, KeepsProportionsToWithinTwoOnEveryPrefixAndCountsWithoutGaps) {
  const std::vector<double>& weights = GetParam();
  long double total = 0;
  for (const double weight : weights) total += weight;
  const Blend blend(weights);
  std::vector<int64_t> counts(weights.size());
  for (int64_t n = 0; n < 20000; ++n) {
    const Blend::Place place = blend(n);
    ASSERT_EQ(place.index, counts[place.dataset]) << "sample " << n;
    ++counts[place.dataset];
    for (size_t d = 0; d < weights.size(); ++d)
      ASSERT_LE(std::abs(double(counts[d]) - double((long double)(n + 1) * weights[d] / total)), 2)
          << "dataset " << d << ", n=" << n + 1;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Weights, BlendTest,
    testing::Values(std::vector<double>{1}, std::vector<double>{1, 1}, std::vector<double>{3, 1},
                    std::vector<double>{0.7, 0.2, 0.1}, std::vector<double>{1e-6, 1, 5},
                    std::vector<double>{1, 2, 4, 8, 16, 32, 64, 128, 256, 512},
                    std::vector<double>{1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89}, std::vector<double>(17, 0.3),
                    std::vector<double>{1e308, 1e308, 1.7e308}, std::vector<double>{5e-324, 1e-320, 1e-308},
                    std::vector<double>{1e308, 5e-324, 1e-320, 1}));

TEST(Blend, AScaleOfAllWeightsChangesNoSample) {
  const std::vector<double> weights{0.7, 0.2, 1.0 / 3, 5};
  for (const int exponent : {-1000, -3, 1, 1000}) {
    std::vector<double> scaled;
    for (const double w : weights) scaled.push_back(std::ldexp(w, exponent));
    const Blend blend(weights), other(scaled);
    for (int64_t n = 0; n < 5000; ++n)
      ASSERT_EQ(blend(n).dataset, other(n).dataset) << n << ", 2^" << exponent;
  }
}

TEST(Blend, OfTwoDatasetsIsNeverMoreThanHalfASampleOff) {
  const Blend blend({3, 1});
  int64_t count = 0;
  for (int64_t n = 1; n <= 100; ++n) {
    count += blend(n - 1).dataset == 0;
    EXPECT_LE(std::abs(double(count) - 0.75 * double(n)), 0.5) << n;
  }
}

TEST(Blend, KeepsProportionsFarOut) {
  const Blend blend({0.7, 0.2, 0.1});
  const int64_t far = int64_t{1} << 45;
  for (int64_t n = far; n < far + 50; ++n) {
    const Blend::Place place = blend(n);
    const double weight = std::vector<double>{0.7, 0.2, 0.1}[place.dataset];
    EXPECT_LE(std::abs(double(place.index) - double(n) * weight), 3);
  }
}

TEST(Blend, RefusesWeightsThatAreNotPositive) {
  EXPECT_THROW(Blend({}), Error);
  EXPECT_THROW(Blend({1, 0}), Error);
  EXPECT_THROW(Blend({1, -1}), Error);
}

}  // namespace
}  // namespace spanwise
