#include "core/ops/span_fold.h"

#include <algorithm>

#include "core/ops/cuda/common/launch.h"

namespace spanwise::cuda {

namespace {

// Products of states in plain fp32, as exact as the CPU's: few and small (a head is 64 to 256 wide), so a
// block of 32 × 64 outputs is what spreads 16 heads of 128 over the whole GPU. A thread has 4 × 4 of them.
constexpr int kRows = 32, kColumns = 64, kInner = 32, kThreads = 128;
constexpr int kPad = 4;  // keeps rows 16-byte aligned and transposed stores off one bank

struct HeadSizes {
  int rows, columns, inner;
};

/// One step's part of op(a) and b: from global memory to registers, then, once the step before is computed,
/// to tiles [k][row] and [k][column]. kWidth consecutive elements an access.
template <HeadOperand kOp, int kWidth>
struct Stage {
  static constexpr int kA = kInner * kRows / kThreads, kB = kInner * kColumns / kThreads;
  float a[kA], b[kB];

  static __device__ __forceinline__ void load_elements(const float* p, bool inside, float* to) {
    if constexpr (kWidth == 4) {
      const float4 x = inside ? *reinterpret_cast<const float4*>(p) : make_float4(0, 0, 0, 0);
      to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
    } else {
      to[0] = inside ? *p : 0.f;
    }
  }
  /// Neighbouring threads have neighbouring elements of a, whichever way it lies.
  static __device__ __forceinline__ void place_of_a(int i, int& k, int& row) {
    constexpr int kFast = (kOp == HeadOperand::kPlain ? kInner : kRows) / kWidth;
    const int v = threadIdx.x + i * kThreads, fast = v % kFast * kWidth, slow = v / kFast;
    k = kOp == HeadOperand::kPlain ? fast : slow;
    row = kOp == HeadOperand::kPlain ? slow : fast;
  }

  /// Zeros outside the matrices.
  __device__ __forceinline__ void load(const float* __restrict__ from_a, const float* __restrict__ from_b,
                                       const HeadSizes& n, int row0, int column0, int k0) {
#pragma unroll
    for (int i = 0; i < kA / kWidth; ++i) {
      int k, row;
      place_of_a(i, k, row);
      const int64_t at = kOp == HeadOperand::kPlain ? int64_t(row0 + row) * n.inner + k0 + k
                                                    : int64_t(k0 + k) * n.rows + row0 + row;
      load_elements(from_a + at, row0 + row < n.rows && k0 + k < n.inner, a + i * kWidth);
    }
#pragma unroll
    for (int i = 0; i < kB / kWidth; ++i) {
      const int v = threadIdx.x + i * kThreads, k = v / (kColumns / kWidth),
                column = v % (kColumns / kWidth) * kWidth;
      load_elements(from_b + int64_t(k0 + k) * n.columns + column0 + column,
                    column0 + column < n.columns && k0 + k < n.inner, b + i * kWidth);
    }
  }

  __device__ __forceinline__ void store(float (&a_tile)[kInner][kRows + kPad],
                                        float (&b_tile)[kInner][kColumns + kPad]) const {
#pragma unroll
    for (int i = 0; i < kA / kWidth; ++i) {
      int k, row;
      place_of_a(i, k, row);
#pragma unroll
      for (int j = 0; j < kWidth; ++j)
        a_tile[kOp == HeadOperand::kPlain ? k + j : k][kOp == HeadOperand::kPlain ? row : row + j] =
            a[i * kWidth + j];
    }
#pragma unroll
    for (int i = 0; i < kB / kWidth; ++i) {
      const int v = threadIdx.x + i * kThreads, k = v / (kColumns / kWidth),
                column = v % (kColumns / kWidth) * kWidth;
#pragma unroll
      for (int j = 0; j < kWidth; ++j) b_tile[k][column + j] = b[i * kWidth + j];
    }
  }
};

template <HeadOperand kOp, int kWidth>
__global__ void __launch_bounds__(kThreads)
    multiply_heads_kernel(const float* __restrict__ a, const float* __restrict__ b,
                          const float* __restrict__ added, float* __restrict__ out, HeadSizes n) {
  __shared__ __align__(16) float a_tile[2][kInner][kRows + kPad], b_tile[2][kInner][kColumns + kPad];
  const int64_t head = blockIdx.x, out_base = head * n.rows * n.columns;
  a += head * n.rows * n.inner;
  b += head * n.inner * n.columns;
  const int row0 = blockIdx.z * kRows, column0 = blockIdx.y * kColumns;
  const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
  float sum[4][4] = {};
  Stage<kOp, kWidth> next;
  next.load(a, b, n, row0, column0, 0);
  for (int k0 = 0, stage = 0; k0 < n.inner; k0 += kInner, stage ^= 1) {
    next.store(a_tile[stage], b_tile[stage]);
    __syncthreads();
    if (k0 + kInner < n.inner) next.load(a, b, n, row0, column0, k0 + kInner);
#pragma unroll
    for (int k = 0; k < kInner; ++k) {
      const float4 x = *reinterpret_cast<const float4*>(&a_tile[stage][k][row]);
      const float4 y = *reinterpret_cast<const float4*>(&b_tile[stage][k][column]);
      const float xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[i][j] = fmaf(xs[i], ys[j], sum[i][j]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (row0 + row + i >= n.rows || column0 + column + j >= n.columns) continue;
      const int64_t at = out_base + int64_t(row0 + row + i) * n.columns + column0 + column + j;
      out[at] = added ? sum[i][j] + added[at] : sum[i][j];
    }
  }
}

__global__ void __launch_bounds__(256)
    decay_heads_kernel(const float* __restrict__ log_decay, const float* __restrict__ state,
                       const float* __restrict__ added, float* __restrict__ out, int64_t elems) {
  const int64_t head = blockIdx.x, base = head * elems;
  const float decay = log_decay ? expf(log_decay[head]) : 1.f;
  for (int64_t i = int64_t(blockIdx.y) * blockDim.x + threadIdx.x; i < elems;
       i += int64_t(gridDim.y) * blockDim.x)
    out[base + i] = fmaf(decay, state[base + i], added[base + i]);
}

bool aligned(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.raw()) % 16 == 0;
}

void check_single(const Tensor& t) {
  SPANWISE_CHECK(t.dtype() == DType::kF32, "states of {} cannot be folded on CUDA (F32 can)",
                 name_of(t.dtype()));
}

}  // namespace

void multiply_heads(const Context& ctx, const Tensor& a, HeadOperand op, const Tensor& b, const Tensor& added,
                    const Tensor& out) {
  check_single(out);
  if (out.numel() == 0) return;
  const HeadSizes n{int(out.dim(1)), int(out.dim(2)), int(b.dim(1))};
  const dim3 grid(unsigned(out.dim(0)), unsigned(ceil_div(n.columns, kColumns)),
                  unsigned(ceil_div(n.rows, kRows)));
  const bool by_vectors = (n.rows | n.columns | n.inner) % 4 == 0 && aligned(a) && aligned(b);
  const auto launch = [&](auto* kernel) {
    kernel<<<grid, kThreads, 0, stream_of(ctx)>>>(a.data<float>(), b.data<float>(), pointer<float>(added),
                                                  out.data<float>(), n);
  };
  if (op == HeadOperand::kPlain) {
    launch(by_vectors ? multiply_heads_kernel<HeadOperand::kPlain, 4>
                      : multiply_heads_kernel<HeadOperand::kPlain, 1>);
  } else {
    launch(by_vectors ? multiply_heads_kernel<HeadOperand::kTransposed, 4>
                      : multiply_heads_kernel<HeadOperand::kTransposed, 1>);
  }
  check_launch("multiply_heads");
}

void decay_heads(const Context& ctx, const Tensor& log_decay, const Tensor& state, const Tensor& added,
                 const Tensor& out) {
  check_single(out);
  if (out.numel() == 0) return;
  const int64_t num_decays = log_decay.defined() ? log_decay.numel() : out.dim(0),
                elems = out.numel() / num_decays;
  const dim3 grid(unsigned(num_decays), unsigned(std::min<int64_t>(ceil_div(elems, 256), 64)));
  decay_heads_kernel<<<grid, 256, 0, stream_of(ctx)>>>(pointer<float>(log_decay), state.data<float>(),
                                                       added.data<float>(), out.data<float>(), elems);
  check_launch("decay_heads");
}

}  // namespace spanwise::cuda
