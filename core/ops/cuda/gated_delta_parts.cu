#include "core/ops/cuda/gated_delta_parts.h"

#include <algorithm>

#include "core/ops/cuda/common/launch.h"

namespace spanwise::cuda::delta {

namespace {

constexpr int kLeastChunks = 8;  // of a part

/// Time of a scan in P parts, in units of the scan of a whole segment; the states-only scan costs 3/4.
double cost(int P, int segments, int heads, int K, int V, int num_multiprocessors) {
  const auto waves = [&](int64_t blocks) { return double(ceil_div(blocks, num_multiprocessors)); };
  const int64_t units = int64_t(segments) * heads;
  if (P == 1) return waves(units * (V / 64));
  const int64_t first = units * ((P - 1) * (V / 64) + std::max(P - 2, 0) * (K / 64));
  return (waves(units * P * (V / 64)) + 0.75 * waves(first)) / P;
}

}  // namespace

PartPlan plan_parts(const std::vector<Segment>& segments, int heads, int K, int V, int num_multiprocessors) {
  int best = 1;
  const int count = int(segments.size());
  for (int P = 2; P <= 64; ++P) {
    if (cost(P, count, heads, K, V, num_multiprocessors) <
        0.9 * cost(best, count, heads, K, V, num_multiprocessors))
      best = P;
  }
  PartPlan plan;
  for (const Segment& s : segments) {
    const int chunks = s.last - s.first, num = std::clamp(chunks / kLeastChunks, 1, best);
    const int begin = int(plan.parts.size());
    for (int i = 0; i < num; ++i) {
      const int index = begin + i;
      plan.parts.push_back({s.first + chunks * i / num, s.first + chunks * (i + 1) / num, index, index});
    }
    plan.ranges.push_back({begin, begin + num, s.initial, s.final});
  }
  return plan;
}

namespace {

constexpr int kThreads = 256, kColumns = 16, kRowStep = kThreads / kColumns;

/// A block folds 16 columns of one head over one segment; fp32.
template <FoldOrder kOrder>
__global__ void __launch_bounds__(kThreads) fold_kernel(FoldArgs args) {
  extern __shared__ float smem[];  // two of [K, kColumns]: the state before a part and after it
  const int K = args.K, V = args.V, slabs = V / kColumns;
  const int slab = blockIdx.x % slabs, head = blockIdx.x / slabs % args.HV;
  const PartRange range = args.ranges[blockIdx.x / slabs / args.HV];
  const int column = threadIdx.x % kColumns, row = threadIdx.x / kColumns;
  const auto at = [&](int index, int k) {
    return ((int64_t(index) * args.HV + head) * K + k) * V + slab * kColumns + column;
  };
  const int count = range.last - range.first,
            start = kOrder == FoldOrder::kForward ? range.initial : range.final;
  for (int k = row; k < K; k += kRowStep) {
    const int part = kOrder == FoldOrder::kForward ? range.first : range.last - 1;
    args.states[at(part, k)] = args.start && start >= 0 ? args.start[at(start, k)] : 0.0f;
  }
  for (int i = 0; i + 1 < count; ++i) {
    const int step = kOrder == FoldOrder::kForward ? 1 : -1;
    const int part = kOrder == FoldOrder::kForward ? range.first + i : range.last - 1 - i;
    const float* m = args.transitions + (int64_t(part) * args.HV + head) * K * K;
    const float* before = smem + i % 2 * K * kColumns;
    float* after = smem + (i + 1) % 2 * K * kColumns;
    for (int k = row; k < K; k += kRowStep) {
      float sum = args.own[at(part, k)];
      if (i > 0) {
#pragma unroll 4
        for (int l = 0; l < K; ++l)
          sum += m[kOrder == FoldOrder::kForward ? k * K + l : l * K + k] * before[l * kColumns + column];
      }
      args.states[at(part + step, k)] = sum;
      after[k * kColumns + column] = sum;
    }
    __syncthreads();
  }
}

}  // namespace

void launch_fold(cudaStream_t stream, const FoldArgs& args) {
  const unsigned blocks = unsigned(args.num_ranges * args.HV * (args.V / kColumns));
  const int bytes = 2 * args.K * kColumns * 4;
  if (args.order == FoldOrder::kForward) {
    fold_kernel<FoldOrder::kForward><<<blocks, kThreads, bytes, stream>>>(args);
  } else {
    fold_kernel<FoldOrder::kBackward><<<blocks, kThreads, bytes, stream>>>(args);
  }
  check_launch("gated_delta_fold");
}

}  // namespace spanwise::cuda::delta
