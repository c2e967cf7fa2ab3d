// dβ and dg from the partial sums that the gradients kernel left, and gradients of keys and queries that
// several value heads share.

#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/common/vector.cuh"
#include "core/ops/cuda/delta/finish.h"

namespace spanwise::cuda::delta {

namespace {

constexpr int kThreads = 256;

/// One warp per chunk and head. dg is the reverse cumulative sum of dG; without a state before the chunk its
/// first token decays nothing, and its dg is zero to the last bit.
__global__ void __launch_bounds__(kThreads) finish_kernel(FinishArgs args) {
  const int64_t unit = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / 32;
  if (unit >= int64_t(args.num_selected) * args.HV) return;
  const int head = int(unit % args.HV), index = args.selected[unit / args.HV], lane = threadIdx.x % 32;
  const Chunk chunk = args.chunks[index];
  const int64_t one = int64_t(args.num_chunks) * args.HV * kChunk, all = one * args.key_blocks;
  const float* from = args.partials + (int64_t(index) * args.HV + head) * kChunk;
  float after = 0;
#pragma unroll
  for (int half = 1; half >= 0; --half) {
    const int i = half * 32 + lane;
    float dlog = 0, dbeta = 0;
    for (int j = 0; j < args.key_blocks; ++j) {
      dlog += from[j * one + i];
      dbeta += from[all + j * one + i];
    }
    if (i >= chunk.length) dlog = 0;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const float next = __shfl_down_sync(0xffffffffu, dlog, offset);
      if (lane + offset < 32) dlog += next;
    }
    dlog += after;
    after = __shfl_sync(0xffffffffu, dlog, 0);
    if (i < chunk.length) {
      const int64_t at = int64_t(chunk.begin + i) * args.HV + head;
      args.dbeta[at] = dbeta;
      if (args.dlog_decay) args.dlog_decay[at] = i == 0 && chunk.state_in < 0 ? 0.0f : dlog;
    }
  }
}

__global__ void __launch_bounds__(kThreads) sum_heads_kernel(SumHeadsArgs args) {
  const Chunk chunk = args.chunks[args.selected[blockIdx.x]];
  const int pieces = args.K / 8, group = args.HV / args.H;
  const int64_t first = int64_t(chunk.begin) * args.H;
  for (int i = threadIdx.x; i < chunk.length * args.H * pieces; i += kThreads) {
    const int64_t row = first + i / pieces;
    const int col = i % pieces * 8;
    float sum[8] = {};
    for (int j = 0; j < group; ++j) {
      float x[8];
      load_vector<bf16>(args.heads + (row * group + j) * args.K + col, x);
#pragma unroll
      for (int e = 0; e < 8; ++e) sum[e] += x[e];
    }
    store_vector<bf16>(args.sums + row * args.K + col, sum);
  }
}

}  // namespace

void launch_finish(cudaStream_t stream, const FinishArgs& args) {
  const int64_t blocks = ceil_div(int64_t(args.num_selected) * args.HV * 32, kThreads);
  if (blocks == 0) return;
  finish_kernel<<<unsigned(blocks), kThreads, 0, stream>>>(args);
  check_launch("gated_delta_finish");
}

void launch_sum_heads(cudaStream_t stream, const SumHeadsArgs& args) {
  if (args.num_selected == 0) return;
  sum_heads_kernel<<<unsigned(args.num_selected), kThreads, 0, stream>>>(args);
  check_launch("gated_delta_sum_heads");
}

}  // namespace spanwise::cuda::delta
