#include "core/blas_core.h"

#include <gtest/gtest.h>

namespace spanwise {
namespace {

constexpr CpuFeatures kOld{}, kAvx{.avx = true}, kAvx2{.avx = true, .avx2_fma = true},
    kAvx512{.avx = true, .avx2_fma = true, .avx512 = true}, kZen2{.avx = true, .avx2_fma = true, .amd = true},
    kZen5{.avx = true, .avx2_fma = true, .avx512 = true, .amd = true};

TEST(BlasCore, AProcessorNewerThanTheTableGetsTheCoreOfItsInstructions) {
  EXPECT_EQ(core_to_take("Prescott", kAvx512), "SkylakeX");
  EXPECT_EQ(core_to_take("Haswell", kAvx512), "SkylakeX");
  EXPECT_EQ(core_to_take("Prescott", kAvx2), "Haswell");
  EXPECT_EQ(core_to_take("Sandybridge", kAvx2), "Haswell");
  EXPECT_EQ(core_to_take("Prescott", kAvx), "Sandybridge");
  EXPECT_EQ(core_to_take("Barcelona", kZen2), "Zen");
  EXPECT_EQ(core_to_take("Prescott", kZen5), "Zen");
}

TEST(BlasCore, OneThatFitsOrIsNotKnownIsKept) {
  for (const char* core : {"SkylakeX", "Cooperlake", "SapphireRapids", "a core of the future", "Zen"}) {
    for (const CpuFeatures& features : {kOld, kAvx, kAvx2, kZen2, kZen5})
      EXPECT_EQ(core_to_take(core, features), "") << core;
  }
  EXPECT_EQ(core_to_take("SapphireRapids", kAvx512), "");
  EXPECT_EQ(core_to_take("Haswell", kAvx2), "");
  EXPECT_EQ(core_to_take("Haswell", kZen5), "");
  EXPECT_EQ(core_to_take("Prescott", kOld), "");
  EXPECT_EQ(core_to_take("armv8", {}), "");
}

TEST(BlasCore, FeaturesIncludeEachOther) {
  const CpuFeatures features = cpu_features();
  EXPECT_TRUE(features.avx2_fma || !features.avx512);
  EXPECT_TRUE(features.avx || !features.avx2_fma);
  EXPECT_FALSE(blas_core().empty());
}

}  // namespace
}  // namespace spanwise
