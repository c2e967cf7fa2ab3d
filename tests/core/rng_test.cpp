#include "core/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace spanwise {
namespace {

TEST(Rng, PhiloxGivesThePublishedKnownAnswers) {
  // Random123's kat_vectors for philox4x32 with 10 rounds.
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

TEST(Rng, ValuesDependOnSeedNameAndIndexAlone) {
  const RandomStream a(1, "x"), again(1, "x"), other_seed(2, "x"), other_name(1, "y");
  EXPECT_EQ(a.bits(17), again.bits(17));
  EXPECT_NE(a.bits(17), a.bits(18));
  EXPECT_NE(a.bits(17), other_seed.bits(17));
  EXPECT_NE(a.bits(17), other_name.bits(17));
}

TEST(Rng, NormalsHaveMeanZeroAndVarianceOne) {
  const RandomStream random(3, "normal");
  double sum = 0, square = 0;
  constexpr int n = 100000;
  for (int i = 0; i < n; ++i) {
    const double x = random.normal(i);
    sum += x;
    square += x * x;
  }
  EXPECT_NEAR(sum / n, 0, 4 / std::sqrt(double(n)));
  EXPECT_NEAR(square / n, 1, 4 * std::sqrt(2.0 / n));
}

TEST(Rng, UniformsStayInsideTheirRange) {
  const RandomStream random(3, "uniform");
  std::set<uint64_t> seen;
  for (int i = 0; i < 1000; ++i) {
    const double x = random.uniform(i, -2, 3);
    EXPECT_GE(x, -2);
    EXPECT_LT(x, 3);
    const uint64_t k = random.below(i, 7);
    EXPECT_LT(k, 7u);
    seen.insert(k);
  }
  EXPECT_EQ(seen.size(), 7u);
}

}  // namespace
}  // namespace spanwise
