#pragma once
// The last kernels of gated_delta's backward.

#include "core/ops/cuda/delta/chunks.cuh"

namespace spanwise::cuda::delta {

struct FinishArgs {
  const Chunk* chunks;
  const int* selected;
  int num_chunks, num_selected, HV, key_blocks;
  const float* partials;      ///< of the gradients kernel
  float *dlog_decay, *dbeta;  ///< [tokens, HV]; dlog_decay or nullptr
};
void launch_finish(cudaStream_t stream, const FinishArgs& args);

struct SumHeadsArgs {
  const Chunk* chunks;
  const int* selected;
  int num_selected, H, HV, K;
  const bf16* heads;  ///< [tokens, HV, K]
  bf16* sums;         ///< [tokens, H, K]: each key head's value heads, added in order
};
void launch_sum_heads(cudaStream_t stream, const SumHeadsArgs& args);

}  // namespace spanwise::cuda::delta
