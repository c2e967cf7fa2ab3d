#include "core/ops/cpu/vector_exp.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace spanwise::cpu {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// Through an array, so that the vectorised loop is what is tested.
template <class T>
std::vector<T> exp_of(const std::vector<T>& x) {
  std::vector<T> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = vector_exp(x[i]);
  return y;
}

template <class T>
std::vector<T> grid(double from, double to, int count) {
  std::vector<T> x;
  for (int i = 0; i < count; ++i) x.push_back(T(from + (to - from) * i / (count - 1)));
  return x;
}

TEST(VectorExp, FloatIsWithinTwoUlp) {
  const std::vector<float> x = grid<float>(-87.3, 88.7, 2000003), y = exp_of(x);
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double exact = std::exp(double(x[i]));
    const double ulp = double(std::nextafter(float(exact), kInf)) - double(float(exact));
    worst = std::max(worst, std::abs(double(y[i]) - exact) / ulp);
  }
  EXPECT_LE(worst, 2.0);
}

TEST(VectorExp, FloatIsWithinTwoUlpNearZero) {
  std::vector<float> x;
  for (float v = 1.0f; v > 1e-38f; v *= 0.97f) {
    x.push_back(v);
    x.push_back(-v);
  }
  const std::vector<float> y = exp_of(x);
  for (size_t i = 0; i < x.size(); ++i) {
    const double exact = std::exp(double(x[i]));
    EXPECT_LE(std::abs(double(y[i]) - exact), 2 * 6e-8 * exact) << x[i];
  }
}

TEST(VectorExp, DoubleHasRelativeErrorBelow1em14) {
  const std::vector<double> x = grid<double>(-708.0, 709.7, 1000003), y = exp_of(x);
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) worst = std::max(worst, std::abs(y[i] / std::exp(x[i]) - 1));
  EXPECT_LT(worst, 1e-14);
}

TEST(VectorExp, UnderflowsToZeroAndOverflowsToInfinity) {
  const auto low = exp_of<float>({-104.0f, -1e4f, -3e38f, -kInf}),
             high = exp_of<float>({88.8f, 1e4f, 3e38f, kInf});
  for (float y : low) EXPECT_EQ(y, 0.0f);
  for (float y : high) EXPECT_EQ(y, kInf);
  const auto low64 = exp_of<double>({-746.0, -1e4, -1e308, -double(kInf)}),
             high64 = exp_of<double>({709.8, 1e4, 1e308, double(kInf)});
  for (double y : low64) EXPECT_EQ(y, 0.0);
  for (double y : high64) EXPECT_EQ(y, double(kInf));
}

TEST(VectorExp, SubnormalResultsAreWithinOneSubnormalStep) {
  for (float x : grid<float>(-103.9, -87.4, 1001))
    EXPECT_NEAR(double(vector_exp(x)), std::exp(double(x)), 1.5e-45) << x;
  for (double x : grid<double>(-745.9, -708.5, 1001)) EXPECT_NEAR(vector_exp(x), std::exp(x), 5e-324) << x;
}

TEST(VectorExp, IsExactAtZeroAndKeepsNan) {
  EXPECT_EQ(vector_exp(0.0f), 1.0f);
  EXPECT_EQ(vector_exp(-0.0), 1.0);
  EXPECT_TRUE(std::isnan(vector_exp(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_TRUE(std::isnan(vector_exp(std::numeric_limits<double>::quiet_NaN())));
}

}  // namespace
}  // namespace spanwise::cpu
