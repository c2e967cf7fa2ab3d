#include "core/cuda/cuda_memory.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/context.h"

namespace spanwise {
namespace {

/// Values that tell every element of an array, and every piece of it, apart.
std::vector<uint32_t> numbered(size_t numel, uint32_t first) {
  std::vector<uint32_t> values(numel);
  for (size_t i = 0; i < numel; ++i) values[i] = first + uint32_t(i) * 2654435761u;
  return values;
}

// What peaks are looked up by.
TEST(CudaMemory, AGpuHasTheNameThatItsDriverGivesIt) {
  EXPECT_TRUE(gpu_name(0).starts_with("NVIDIA ")) << gpu_name(0);
}

TEST(CudaMemory, LargeArraysGoInPiecesThroughFewPinnedBytes) {
  const std::shared_ptr<Memory> memory = cuda::make_memory(0, false);
  // A little more than five pieces: blocks are used again while their copies may be under way.
  const size_t numel = 5 * cuda::kMostPinnedPiece / sizeof(uint32_t) + 777, bytes = numel * sizeof(uint32_t);
  void* const to = memory->allocate(bytes);
  for (uint32_t round = 0; round < 3; ++round) {
    std::vector<uint32_t> values = numbered(numel, round);
    memory->from_host(to, values.data(), bytes);
    const std::vector<uint32_t> expected = values;
    std::fill(values.begin(), values.end(), 0);  // the host's memory may be reused
    std::vector<uint32_t> back(numel);
    memory->to_host(back.data(), to, bytes);
    EXPECT_TRUE(back == expected) << "round " << round;
  }
  EXPECT_LE(cuda::pinned_bytes(*memory), 2 * cuda::kMostPinnedPiece);
  memory->free(to, bytes);
}

TEST(CudaMemory, SmallArraysUnderWayKeepBlocksOfTheirOwn) {
  const std::shared_ptr<Memory> memory = cuda::make_memory(0, false);
  constexpr size_t kNumel = 1000, kBytes = kNumel * sizeof(uint32_t);
  std::vector<void*> copies;
  for (uint32_t i = 0; i < 50; ++i) {
    copies.push_back(memory->allocate(kBytes));
    memory->from_host(copies.back(), numbered(kNumel, i).data(), kBytes);
  }
  for (uint32_t i = 0; i < copies.size(); ++i) {
    std::vector<uint32_t> back(kNumel);
    memory->to_host(back.data(), copies[i], kBytes);
    EXPECT_TRUE(back == numbered(kNumel, i)) << i;
    memory->free(copies[i], kBytes);
  }
  EXPECT_LE(cuda::pinned_bytes(*memory), 50 * size_t{4096});
}

}  // namespace
}  // namespace spanwise
