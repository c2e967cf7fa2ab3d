#pragma once
// Sizes of softmax attention's memory on a GPU. No CUDA types: plans of runs ask, too.

#include "core/ops/softmax_attention.h"

namespace spanwise::cuda {

constexpr int kBoundsQueries = 64;  ///< queries of a BlockBounds
constexpr int kQueryPad = 128;      ///< rows of padded_lse and delta are whole blocks of queries

/// Whether backward can compute all gradients in one kernel, in BF16 on a GPU with wgmma; and whether it is
/// quicker so: its longest blocks start last under a causal mask, so that it needs many for each processor.
bool has_one_kernel(const AttentionShape& shape);
bool one_kernel_is_quicker(const AttentionShape& shape, int num_processors);

/// Of a call; `staggered`: no block of queries starts reading more than a few blocks of keys that the one
/// before it does not read, as under causal masks, windows and packed documents: blocks of keys that start
/// together then come to a block of queries one after the other.
AttentionShape attention_shape(const AttentionInputs& in);

/// A query's keys [begin, end), as they lie on the GPU: CUDA's int2.
struct KeyBorders {
  int32_t begin, end;
};
std::vector<KeyBorders> key_borders(const KeyRanges& ranges);
/// BlockBounds of all rows, I32.
Shape bounds_shape(const AttentionInputs& in);

/// padded_lse and delta, F32.
Shape statistics_shape(const AttentionShape& shape);
/// What the one-kernel way sums dq in, F32, and its tickets and turns, I32.
Shape dq_sums_shape(const AttentionShape& shape);
Shape turns_shape(const AttentionShape& shape);

/// Take on a dry Context what the kernels take, and give it back.
void dry_attention_fwd(Context& ctx, const AttentionInputs& in);
void dry_attention_bwd(Context& ctx, const Tensor& dout, const AttentionInputs& in, const Tensor& out);

}  // namespace spanwise::cuda
