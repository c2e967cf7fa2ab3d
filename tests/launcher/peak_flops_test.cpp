#include "launcher/metrics/peak_flops.h"

#include <gtest/gtest.h>

namespace spanwise {
namespace {

TEST(PeakFlops, AreOfDenseProductsInTheRunsPrecision) {
  EXPECT_EQ(peak_flops("NVIDIA H200", DType::kBF16), 989e12);
  EXPECT_EQ(peak_flops("NVIDIA H200", DType::kF32), 67e12);
  EXPECT_EQ(peak_flops("NVIDIA H100 PCIe", DType::kBF16), 756e12);
}

TEST(PeakFlops, OfOtherNamesAndPartsOfGpusAreNotGuessed) {
  for (const char* name : {"NVIDIA H200 MIG 1g.18gb", "NVIDIA H100", "NVIDIA A100-SXM4-80GB", "H200", ""})
    EXPECT_EQ(peak_flops(name, DType::kBF16), std::nullopt) << name;
  EXPECT_EQ(peak_flops("NVIDIA H200", DType::kF64), std::nullopt);
}

}  // namespace
}  // namespace spanwise
