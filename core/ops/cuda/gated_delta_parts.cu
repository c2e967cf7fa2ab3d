#include "core/ops/cuda/gated_delta_parts.h"

#include <algorithm>
#include <cmath>

#include "core/ops/cuda/common/launch.h"

namespace spanwise::cuda::delta {

namespace {

constexpr int kLeastChunks = 8;  // of a part
constexpr int kMostParts = 64;   // of the longest segment

// Clock cycles on an H200 with K = 128, measured or counted; only their ratios matter.
constexpr double kScanCycles = 3900;     // a chunk of a scan or retreat
constexpr double kSummaryCycles = 2600;  // a chunk of a summary's block
constexpr double kFoldCycles = 4000;     // a part
constexpr double kLaunchCycles = 20000;  // of the summary and the fold
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
    const double times = waves(double(summaries * forward_blocks_) * whole_) +
                         waves(double(summaries * backward_blocks_) * whole_);
    return 2 * (scan + kLaunchCycles + kFoldCycles * double(folded)) + kSummaryCycles * times * double(whole);
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

constexpr int kThreads = 256, kColumns = 8, kPanel = 32;

template <int kK>
struct FoldSmem {
  float panels[2][kPanel][kK + 1];  ///< [l][k]: 32 columns of M, or of Mᵀ; the odd stride keeps banks apart
  alignas(16) float states[2][kK][kColumns];
};

/// A block folds kColumns columns of one head over one range; fp32, a thread one row and some columns.
template <int kK, Direction kDirection>
class Fold {
  static constexpr int kPerThread = kK * kColumns / kThreads, kLoads = kPanel * kK / kThreads,
                       kPanels = kK / kPanel;
  static constexpr bool kForward = kDirection == Direction::kForward;

 public:
  __device__ Fold(const FoldArgs& args, FoldSmem<kK>& smem) : a(args), s(smem) {
    const int of_values = a.V / kColumns, groups = of_values + (a.products ? kK / kColumns : 0);
    const int group = blockIdx.x % groups;
    head = blockIdx.x / groups % a.HV;
    range = a.ranges[blockIdx.x / groups / a.HV];
    product = group >= of_values;
    column = (product ? group - of_values : group) * kColumns;
    width = product ? kK : a.V;
    row = threadIdx.x % kK;
    col = threadIdx.x / kK * kPerThread;
  }

  __device__ void run() {
    if (product && range.transition < 0) return;
    float state[kPerThread] = {};
    bool any = start(state);
    const int count = range.last - range.first, needed = product || range.end >= 0 ? count : count - 1;
    for (int i = 0; i < needed; ++i) {
      const int part = kForward ? range.first + i : range.last - 1 - i;
      const int64_t unit = int64_t(part) * a.HV + head;
      float next[kPerThread] = {};
      if (!product) {
#pragma unroll
        for (int j = 0; j < kPerThread; ++j) next[j] = a.own[at(part, j)];
      }
      if (any && a.passes[unit] != 0) multiply(a.transitions + unit * kK * kK, state, next);
#pragma unroll
      for (int j = 0; j < kPerThread; ++j) state[j] = next[j];
      any = true;
      if (i + 1 < count && a.states && !product) write(a.states, part + (kForward ? 1 : -1), state);
    }
    if (product) {
      write(a.products, range.transition, state);
    } else if (range.end >= 0) {
      write(a.ends, range.end, state);
    }
  }

 private:
  __device__ int64_t at(int index, int j) const {
    return ((int64_t(index) * a.HV + head) * kK + row) * width + column + col + j;
  }
  __device__ void write(float* to, int index, const float (&state)[kPerThread]) const {
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) to[at(index, j)] = state[j];
  }
  /// False: zero.
  __device__ bool start(float (&state)[kPerThread]) const {
    if (!product && range.start < 0) return false;
#pragma unroll
    for (int j = 0; j < kPerThread; ++j)
      state[j] = product ? float(row == column + col + j) : a.start[at(range.start, j)];
    return true;
  }

  __device__ void load(const float* m, int panel, float (&values)[kLoads]) const {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int e = threadIdx.x + i * kThreads;
      values[i] = kForward ? m[e / kPanel * kK + panel * kPanel + e % kPanel] : m[panel * kPanel * kK + e];
    }
  }
  __device__ void store(int panel, const float (&values)[kLoads]) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int e = threadIdx.x + i * kThreads;
      if (kForward) {
        s.panels[panel % 2][e % kPanel][e / kPanel] = values[i];
      } else {
        s.panels[panel % 2][e / kK][e % kK] = values[i];
      }
    }
  }
  /// next += M state, or Mᵀ state.
  __device__ void multiply(const float* m, const float (&state)[kPerThread], float (&next)[kPerThread]) {
    float values[kLoads];
    load(m, 0, values);
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) s.states[turn][row][col + j] = state[j];
    for (int panel = 0; panel < kPanels; ++panel) {
      store(panel, values);
      __syncthreads();  // also: the panel before the last is read
      if (panel + 1 < kPanels) load(m, panel + 1, values);
#pragma unroll
      for (int l = 0; l < kPanel; ++l) {
        const float factor = s.panels[panel % 2][l][row];
        const float* before = &s.states[turn][panel * kPanel + l][col];
#pragma unroll
        for (int j = 0; j < kPerThread; ++j) next[j] += factor * before[j];
      }
    }
    turn ^= 1;
  }

  const FoldArgs& a;
  FoldSmem<kK>& s;
  FoldRange range;
  int head, column, width, row, col, turn = 0;
  bool product;
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
  switch (args.K) {
    case 64:
      return launch_fold_of<64>(stream, args);
    case 128:
      return launch_fold_of<128>(stream, args);
    case 256:
      return launch_fold_of<256>(stream, args);
  }
}

}  // namespace spanwise::cuda::delta
