#include "core/ops/cuda/delta/pieces.h"

#include "core/ops/cuda/common/launch.h"

namespace spanwise::cuda::delta {

namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps, kColumns = 16;

/// The state before a step as the sum of two bf16, [column][row].
template <int kK>
struct FoldSmem {
  struct State {
    bf16 high[kColumns][kK + 8], low[kColumns][kK + 8];
  } states[2];
  float passes[2 * kMostPieces];
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
  static constexpr bool kAhead = kTiles == 1;  // the next piece's operands are loaded while one is folded

  /// What a warp needs of a piece for one tile of rows, in the layouts of mma_16816().
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
      s.passes[i] = i > 0 || started ? a.passes[int64_t(piece_at(i)) * a.HV + head] : 0.0f;
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
  __device__ int piece_at(int i) const {
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
    const int piece = piece_at(i), row = first_row(tile);
    const float* m = a.transitions + (int64_t(piece) * a.HV + head) * kK * kK;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 own =
            product ? float2{0, 0}
                    : *reinterpret_cast<const float2*>(a.own + at(piece, row + 8 * half, 8 * n + 2 * t));
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
  /// What leaves the i-th piece.
  __device__ void finish(int i, int count, int tile, const float (&x)[2][4]) {
    const int row = first_row(tile);
    const bool ends = i + 1 == count;
    float* to = product ? a.products : ends ? a.ends : a.states;
    const int index = product ? range.transition : ends ? range.end : piece_at(i + 1);
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
