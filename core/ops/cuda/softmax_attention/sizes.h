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

/// padded_lse and delta, F32.
Shape statistics_shape(const AttentionShape& shape);
/// What the one-kernel way sums dq in, F32, and its tickets and turns, I32.
Shape dq_sums_shape(const AttentionShape& shape);
Shape turns_shape(const AttentionShape& shape);

}  // namespace spanwise::cuda
