#include "core/ops/block_copy.h"

#include <utility>

#include "core/dispatch.h"

namespace spanwise {

namespace work {

double moved_elems(const std::vector<MovedBlock>& blocks) {
  double elems = 0;
  for (const MovedBlock& b : blocks) elems += double(b.rows * b.width);
  return elems;
}
Work copy_blocks(const Context&, const Tensor& source, const Tensor& target,
                 const std::vector<MovedBlock>& blocks) {
  return {.bytes = moved_elems(blocks) * double(size_of(source.dtype()) + size_of(target.dtype()))};
}
Work add_blocks(const Context&, const Tensor& source, const Tensor& target,
                const std::vector<MovedBlock>& blocks) {
  return {.bytes = moved_elems(blocks) * double(size_of(source.dtype()) + 2 * size_of(target.dtype()))};
}

}  // namespace work
namespace dry {
constexpr NoTemporaries copy_blocks, add_blocks;
}

namespace {

void check(const Tensor& source, const Tensor& target, const std::vector<MovedBlock>& blocks) {
  SPANWISE_CHECK(source.contiguous() && target.contiguous(),
                 "blocks move between contiguous tensors, not from {} {} to {} {}", name_of(source.dtype()),
                 source.shape().str(), name_of(target.dtype()), target.shape().str());
  for (const MovedBlock& b : blocks) {
    if (b.rows == 0 || b.width == 0) continue;
    const auto inside = [&](const Tensor& t, int64_t begin, int64_t stride) {
      return begin >= 0 && stride >= 0 && begin + (b.rows - 1) * stride + b.width <= t.numel();
    };
    SPANWISE_CHECK(inside(source, b.from, b.from_stride) && inside(target, b.to, b.to_stride),
                   "a block of {} x {} elements from {} (+{}) to {} (+{}) leaves {} or {}", b.rows, b.width,
                   b.from, b.from_stride, b.to, b.to_stride, source.shape().str(), target.shape().str());
  }
}

}  // namespace

void copy_blocks(const Context& ctx, const Tensor& source, const Tensor& target,
                 const std::vector<MovedBlock>& blocks) {
  check(source, target, blocks);
  SPANWISE_CHECK(source.dtype() == target.dtype(), "blocks of {} are not copied to {}",
                 name_of(source.dtype()), name_of(target.dtype()));
  SPANWISE_DISPATCH(ctx, copy_blocks, ctx, source, target, blocks);
}

void add_blocks(const Context& ctx, const Tensor& source, const Tensor& target,
                const std::vector<MovedBlock>& blocks) {
  check(source, target, blocks);
  SPANWISE_CHECK(target.dtype() == source.dtype() || target.dtype() == accumulation_dtype(source.dtype()),
                 "blocks of {} are not added to {}", name_of(source.dtype()), name_of(target.dtype()));
  SPANWISE_DISPATCH(ctx, add_blocks, ctx, source, target, blocks);
}

std::vector<MovedBlock> reversed(std::vector<MovedBlock> blocks) {
  for (MovedBlock& b : blocks) {
    std::swap(b.from, b.to);
    std::swap(b.from_stride, b.to_stride);
  }
  return blocks;
}

}  // namespace spanwise
