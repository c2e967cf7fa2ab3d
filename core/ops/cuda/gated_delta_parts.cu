#include "core/ops/cuda/gated_delta_parts.h"

#include <algorithm>
#include <cmath>

#include "core/ops/cuda/common/launch.h"

namespace spanwise::cuda::delta {

namespace {

constexpr int kLeastChunks = 8;  // of a part
constexpr int kMostParts = 64;   // of the longest segment

// Clock cycles on an H200 with K = 128, measured or counted; only their ratios matter.
constexpr double kScanCycles = 3900;      // a chunk of a scan or retreat
constexpr double kForwardCycles = 3000;   // a chunk of a forward summary
constexpr double kBackwardCycles = 4100;  // of a backward one
constexpr double kFoldCycles = 2500;      // a part
constexpr double kLaunchCycles = 20000;   // of the summary and the fold
// Decays forget within a few chunks but for some heads: the share of blocks that visit whole parts.
constexpr double kWholeWithDecays = 0.25;

/// Time of a scan and a retreat and of what comes before them.
class CostModel {
 public:
  CostModel(const std::vector<ChunkList::SegmentChunks>& segments, int heads, int K, int V, bool decays,
            int num_multiprocessors)
      : scan_blocks_(int64_t(heads) * (V / 64)), multiprocessors_(num_multiprocessors) {
    forward_blocks_ = heads * (K <= 128 ? ceil_div(V, 128) : (V + K) / 64);
    backward_blocks_ = heads * (K <= 128 ? ceil_div(V, 128) : V / 64);
    whole_ = decays ? kWholeWithDecays : 1.0;
    for (const ChunkList::SegmentChunks& s : segments) longest_ = std::max(longest_, s.last - s.first);
    for (const ChunkList::SegmentChunks& s : segments) {
      const int64_t count = s.last - s.first;
      total_ += count;
      if (count >= 2 * kLeastChunks && count * kMostParts >= longest_) {
        long_.push_back(count);
      } else {
        ++num_short_;
        longest_short_ = std::max(longest_short_, count);
      }
    }
  }
  int64_t longest() const { return longest_; }
  /// A segment of `count` chunks in parts of about `length`.
  static int64_t num_parts(int64_t count, int64_t length) {
    return std::clamp<int64_t>((count + length / 2) / length, 1, std::max<int64_t>(1, count / kLeastChunks));
  }
  double cycles(int64_t length) const {
    int64_t parts = num_short_, longest = longest_short_, whole = 0, summaries = 0, folded = 0;
    for (const int64_t count : long_) {
      const int64_t num = num_parts(count, length), each = ceil_div(count, num);
      parts += num;
      longest = std::max(longest, each);
      if (num == 1) continue;
      whole = std::max(whole, each);
      summaries += num - 1;
      folded = std::max(folded, num);
    }
    const double mean = double(total_) / double(parts);
    const double scan = kScanCycles * std::max(double(longest), waves(parts * scan_blocks_) * mean);
    if (folded == 0) return 2 * scan;
    const double forward = kForwardCycles * waves(double(summaries * forward_blocks_) * whole_),
                 backward = kBackwardCycles * waves(double(summaries * backward_blocks_) * whole_);
    return 2 * (scan + kLaunchCycles + kFoldCycles * double(folded)) + (forward + backward) * double(whole);
  }
  /// No cut makes it shorter.
  double least_cycles() const {
    return 2 * kScanCycles * double(total_ * scan_blocks_) / double(multiprocessors_);
  }

 private:
  double waves(double blocks) const { return std::ceil(blocks / double(multiprocessors_)); }

  int64_t scan_blocks_, forward_blocks_, backward_blocks_, multiprocessors_;
  double whole_;
  int64_t longest_ = 0, total_ = 0, num_short_ = 0, longest_short_ = 0;
  std::vector<int64_t> long_;
};

}  // namespace

PartPlan::PartPlan(const ChunkList& chunks, int heads, int K, int V, bool decays, int num_multiprocessors) {
  const std::vector<ChunkList::SegmentChunks> segments = chunks.select(SegmentSet::kAll);
  const CostModel model(segments, heads, K, V, decays, num_multiprocessors);
  int64_t length = model.longest();
  double best = 0.95 * model.cycles(length);
  if (best <= model.least_cycles()) return;
  for (int64_t num = 2; num <= std::min<int64_t>(kMostParts, model.longest() / kLeastChunks); ++num) {
    const int64_t candidate = ceil_div(model.longest(), num);
    const double cycles = model.cycles(candidate);
    if (cycles < best) {
      best = cycles;
      length = candidate;
    }
  }
  if (length == model.longest()) return;
  for (const ChunkList::SegmentChunks& s : segments) {
    const int64_t count = s.last - s.first, num = CostModel::num_parts(count, length);
    if (num == 1) continue;
    const int begin = int(parts_.size());
    for (int64_t i = 0; i < num; ++i)
      parts_.push_back({int(s.first + count * i / num), int(s.first + count * (i + 1) / num)});
    cuts_.push_back({s, begin, int(parts_.size())});
  }
}

const PartPlan::Cut* PartPlan::find(int64_t first_chunk) const {
  const auto at = std::lower_bound(cuts_.begin(), cuts_.end(), first_chunk,
                                   [](const Cut& cut, int64_t chunk) { return cut.segment.first < chunk; });
  return at != cuts_.end() && at->segment.first == first_chunk ? &*at : nullptr;
}

namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps, kColumns = 16;

/// The state before a step as the sum of two bf16, [column][row].
template <int kK>
struct FoldSmem {
  struct State {
    bf16 high[kColumns][kK + 8], low[kColumns][kK + 8];
  } states[2];
  float passes[2 * kMostParts];
};

/// x = high + low in bf16, for two neighbours.
struct Split {
  uint32_t high, low;
};
__device__ __forceinline__ Split split(float x, float y) {
  const uint32_t high = pack_bf16(x, y);
  const float2 rounded = unpack_bf16(high);
  return {high, pack_bf16(x - rounded.x, y - rounded.y)};
}

/// A block folds kColumns columns of one head over one range, a warp 16 rows of them at a time. Products of
/// sums of two bf16, about 16 bits of mantissa.
template <int kK, Direction kDirection>
class Fold {
  static constexpr bool kForward = kDirection == Direction::kForward;
  static constexpr int kSteps = kK / 16, kTiles = kK <= 128 ? 1 : 2;
  static constexpr bool kAhead = kTiles == 1;  // the next part's operands are loaded while one is folded

  /// What a warp needs of a part for one tile of rows, in the layouts of mma_16816().
  struct Operands {
    float own[2][4];  ///< B or D
    float m[kSteps][8];
  };

 public:
  __device__ Fold(const FoldArgs& args, FoldSmem<kK>& smem) : a(args), s(smem) {
    const int of_values = a.V / kColumns, groups = of_values + (a.products ? kK / kColumns : 0);
    const int group = blockIdx.x % groups;
    head = blockIdx.x / groups % a.HV;
    range = a.ranges[blockIdx.x / groups / a.HV];
    product = group >= of_values;
    column = (product ? group - of_values : group) * kColumns;
    width = product ? kK : a.V;
  }

  __device__ void run() {
    if (product && range.transition < 0) return;
    const int count = range.last - range.first, needed = product || range.end >= 0 ? count : count - 1;
    const bool started = product || range.start >= 0;
    for (int i = threadIdx.x; i < count; i += kThreads)
      s.passes[i] = i > 0 || started ? a.passes[int64_t(part_at(i)) * a.HV + head] : 0.0f;
    if (started) put_start();
    __syncthreads();
    const bool active = warp * 16 < kK;
    Operands now, next;
    if (kAhead && active) load(0, 0, now);
    for (int i = 0; i < needed; ++i) {
      if (kAhead && active && i + 1 < needed) load(i + 1, 0, next);
#pragma unroll
      for (int tile = 0; tile < kTiles && active; ++tile) {
        if (!kAhead) load(i, tile, now);
        if (s.passes[i] != 0) multiply(now, s.states[i % 2]);
        finish(i, count, tile, now.own);
      }
      if (kAhead) now = next;
      __syncthreads();
    }
  }

 private:
  __device__ int part_at(int i) const {
    return kForward ? range.first + i : range.last - 1 - i;
  }
  __device__ int64_t at(int index, int row, int col) const {
    return ((int64_t(index) * a.HV + head) * kK + row) * width + column + col;
  }
  __device__ void put(typename FoldSmem<kK>::State& state, int row, int col, float x, float y) const {
    const Split pair = split(x, y);
    const float2 high = unpack_bf16(pair.high), low = unpack_bf16(pair.low);
    state.high[col][row] = __float2bfloat16(high.x);
    state.high[col + 1][row] = __float2bfloat16(high.y);
    state.low[col][row] = __float2bfloat16(low.x);
    state.low[col + 1][row] = __float2bfloat16(low.y);
  }
  __device__ void put_start() {
    for (int e = threadIdx.x; e < kK * kColumns / 2; e += kThreads) {
      const int row = e / (kColumns / 2), col = e % (kColumns / 2) * 2;
      if (product) {
        put(s.states[0], row, col, row == column + col, row == column + col + 1);
      } else {
        const float2 x = *reinterpret_cast<const float2*>(a.start + at(range.start, row, col));
        put(s.states[0], row, col, x.x, x.y);
      }
    }
  }

  __device__ void load(int i, int tile, Operands& x) const {
    const int part = part_at(i), row = first_row(tile);
    const float* m = a.transitions + (int64_t(part) * a.HV + head) * kK * kK;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 own =
            product ? float2{0, 0}
                    : *reinterpret_cast<const float2*>(a.own + at(part, row + 8 * half, 8 * n + 2 * t));
        x.own[n][2 * half] = own.x;
        x.own[n][2 * half + 1] = own.y;
      }
    }
    if (s.passes[i] == 0) return;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int r = row + e % 2 * 8, l = 16 * step + 2 * t + e / 2 * 8;
        if (kForward) {
          const float2 pair = *reinterpret_cast<const float2*>(m + r * kK + l);
          x.m[step][2 * e] = pair.x;
          x.m[step][2 * e + 1] = pair.y;
        } else {
          x.m[step][2 * e] = m[l * kK + r];
          x.m[step][2 * e + 1] = m[(l + 1) * kK + r];
        }
      }
    }
  }
  /// own += M state, or Mᵀ state.
  __device__ void multiply(Operands& x, const typename FoldSmem<kK>::State& state) const {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t high[4], low[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const Split pair = split(x.m[step][2 * e], x.m[step][2 * e + 1]);
        high[e] = pair.high;
        low[e] = pair.low;
      }
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const auto pairs = [&](const bf16(&from)[kColumns][kK + 8], int k) {
          return *reinterpret_cast<const uint32_t*>(&from[8 * n + g][16 * step + 2 * t + k]);
        };
        mma_16816(x.own[n], low, pairs(state.high, 0), pairs(state.high, 8));
        mma_16816(x.own[n], high, pairs(state.low, 0), pairs(state.low, 8));
        mma_16816(x.own[n], high, pairs(state.high, 0), pairs(state.high, 8));
      }
    }
  }
  /// What leaves the i-th part.
  __device__ void finish(int i, int count, int tile, const float (&x)[2][4]) {
    const int row = first_row(tile);
    const bool ends = i + 1 == count;
    float* to = product ? a.products : ends ? a.ends : a.states;
    const int index = product ? range.transition : ends ? range.end : part_at(i + 1);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int r = row + 8 * half, col = 8 * n + 2 * t;
        const float* pair = x[n] + 2 * half;
        if (!ends) put(s.states[(i + 1) % 2], r, col, pair[0], pair[1]);
        if (to && (ends || !product))
          *reinterpret_cast<float2*>(to + at(index, r, col)) = float2{pair[0], pair[1]};
      }
    }
  }
  __device__ int first_row(int tile) const {
    return (warp + kWarps * tile) * 16 + g;
  }

  const FoldArgs& a;
  FoldSmem<kK>& s;
  FoldRange range;
  int head, column, width;
  bool product;
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
};

template <int kK, Direction kDirection>
__global__ void __launch_bounds__(kThreads) fold_kernel(FoldArgs args) {
  extern __shared__ __align__(16) unsigned char smem_bytes[];
  Fold<kK, kDirection>(args, *reinterpret_cast<FoldSmem<kK>*>(smem_bytes)).run();
}

template <int kK, Direction kDirection>
void launch_fold_in(cudaStream_t stream, const FoldArgs& args) {
  constexpr int kBytes = sizeof(FoldSmem<kK>);
  const int groups = (args.V + (args.products ? kK : 0)) / kColumns;
  allow_shared_memory(fold_kernel<kK, kDirection>, kBytes);
  fold_kernel<kK, kDirection>
      <<<unsigned(args.num_ranges * args.HV * groups), kThreads, kBytes, stream>>>(args);
  check_launch("gated_delta_fold");
}

template <int kK>
void launch_fold_of(cudaStream_t stream, const FoldArgs& args) {
  if (args.direction == Direction::kForward) {
    launch_fold_in<kK, Direction::kForward>(stream, args);
  } else {
    launch_fold_in<kK, Direction::kBackward>(stream, args);
  }
}

}  // namespace

void launch_fold(cudaStream_t stream, const FoldArgs& args) {
  with_width(args.K, [&](auto k) { launch_fold_of<decltype(k)::value>(stream, args); });
}

}  // namespace spanwise::cuda::delta
