#pragma once
// Moves rectangles of elements between contiguous tensors: how buffers of collectives are packed and
// unpacked.

#include <vector>

#include "core/tensor.h"

namespace spanwise {

/// `rows` runs of `width` consecutive elements. Run i starts at element from + i · from_stride of the source
/// and at to + i · to_stride of the target.
struct MovedBlock {
  int64_t rows, width;
  int64_t from, from_stride;
  int64_t to, to_stride;
};

/// target (=) source; blocks do not overlap in the target. Equal dtypes.
void copy_blocks(const Context& ctx, const Tensor& source, const Tensor& target,
                 const std::vector<MovedBlock>& blocks);
/// target (+=) source, block by block in the given order; the target of the source's dtype, or F32 sums of
/// BF16.
void add_blocks(const Context& ctx, const Tensor& source, const Tensor& target,
                const std::vector<MovedBlock>& blocks);
/// The same blocks read the other way: from target to source.
std::vector<MovedBlock> reversed(std::vector<MovedBlock> blocks);

namespace cpu {
void copy_blocks(const Context& ctx, const Tensor& source, const Tensor& target,
                 const std::vector<MovedBlock>& blocks);
void add_blocks(const Context& ctx, const Tensor& source, const Tensor& target,
                const std::vector<MovedBlock>& blocks);
}  // namespace cpu
namespace cuda {
void copy_blocks(const Context& ctx, const Tensor& source, const Tensor& target,
                 const std::vector<MovedBlock>& blocks);
void add_blocks(const Context& ctx, const Tensor& source, const Tensor& target,
                const std::vector<MovedBlock>& blocks);
}  // namespace cuda

}  // namespace spanwise
