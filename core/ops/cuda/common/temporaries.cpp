#include "core/ops/cuda/common/temporaries.h"

#include "core/ops/cuda/common/hopper.h"

namespace spanwise::cuda {

namespace {

constexpr int64_t kThreadsAtOnce = 2048;  // of a multiprocessor

/// Threads of a row, as with_row_shape chooses them.
int64_t row_threads(DType dtype, bool aligned, int64_t width) {
  if (!aligned) return width <= 32 ? 32 : width <= 256 ? 128 : 512;
  const int64_t packs = width * int64_t(size_of(dtype)) / 16;
  if (packs <= 8) return 8;
  if (packs <= 16) return 16;
  if (packs <= 64) return 32;
  if (packs <= 128) return 64;
  if (packs <= 256) return 128;
  return packs <= 512 ? 256 : 512;
}

}  // namespace

int64_t most_resident_blocks(int64_t threads) {
  return kThreadsAtOnce / threads * kHopperProcessors;
}

int64_t most_row_partials(DType dtype, bool aligned, int64_t rows, int64_t width, int64_t groups) {
  if (rows == 0) return 0;
  const int64_t threads = row_threads(dtype, aligned, width), block = std::max<int64_t>(threads, 128),
                slots_of_block = block / threads,
                blocks = std::min(ceil_div(rows, slots_of_block), most_resident_blocks(block)),
                slots = std::max<int64_t>(blocks * slots_of_block / groups, 1) * groups;
  const int64_t count = slots_of_block % groups == 0 ? ceil_div(slots, slots_of_block) : slots / groups;
  return count * groups * width;
}

}  // namespace spanwise::cuda
