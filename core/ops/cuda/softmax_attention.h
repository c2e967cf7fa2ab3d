#pragma once
// Internal to core/ops/cuda: the kernels behind cuda::softmax_attention_* and how a caller that compares them
// picks one. No CUDA types, so that tests and benchmarks may include it.
//
//   kWgmma       wgmma + TMA (sm_90a), BF16: head dims 64, 128, 256; backward in one kernel where head dim
//   and
//                key ranges allow it
//   kWgmmaTwice  the same, but dq always in a kernel of its own
//   kMma         mma.sync + cp.async (sm_80 and later), BF16: head dims 64, 128, 256
//   kAuto        the quicker of the first two if the card runs them, else kMma; F32 has plain fp32 kernels

#include "core/ops/softmax_attention.h"

namespace spanwise::cuda {

enum class AttentionPath { kAuto, kMma, kWgmma, kWgmmaTwice };

void softmax_attention_fwd(Context& ctx, const AttentionInputs& in, const AttentionForward& forward,
                           AttentionPath path);
void softmax_attention_bwd(Context& ctx, const Tensor& dout, const AttentionInputs& in,
                           const AttentionForward& forward, const AttentionBackward& grads,
                           AttentionPath path);

}  // namespace spanwise::cuda
