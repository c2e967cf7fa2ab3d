// Softmax attention on the GPU: uploads the key ranges, bounds what blocks of queries read, and chooses the
// kernels. Backward has no atomics on floats, and two ways to sum dq in one order. Two kernels, of which one
// owns keys and sums dk and dv, the other owns queries and sums dq, each with the scores computed anew: 7
// products a pair of blocks, and no block waits for another. One kernel that owns keys, whose blocks add to
// dq in turn: 5 products, but quick only where turns come as blocks get there.

#include "core/ops/cuda/softmax_attention.h"

#include "core/ops/cuda/common/vector.cuh"
#include "core/ops/cuda/softmax_attention/args.h"
#include "core/ops/gpu_limits.h"
#include "core/shared_upload.h"

namespace spanwise::cuda {

namespace {

// One warp a block of queries.
__global__ void bounds_kernel(const int2* ranges, int num_queries, int num_bounds, BlockBounds* bounds) {
  const int block = blockIdx.x, batch = blockIdx.y, lane = threadIdx.x;
  int read_begin = INT_MAX, read_end = 0, all_begin = 0, all_end = INT_MAX;
  for (int i = lane; i < kBoundsQueries; i += 32) {
    const int query = block * kBoundsQueries + i;
    if (query >= num_queries) break;
    const int2 range = ranges[int64_t(batch) * num_queries + query];
    if (range.x < range.y) {
      read_begin = min(read_begin, range.x);
      read_end = max(read_end, range.y);
    }
    all_begin = max(all_begin, range.x);
    all_end = min(all_end, range.y);
  }
  read_begin = __reduce_min_sync(0xffffffffu, read_begin);
  read_end = __reduce_max_sync(0xffffffffu, read_end);
  all_begin = __reduce_max_sync(0xffffffffu, all_begin);
  all_end = __reduce_min_sync(0xffffffffu, all_end);
  if (lane == 0) bounds[int64_t(batch) * num_bounds + block] = {read_begin, read_end, all_begin, all_end};
}

constexpr int kStatisticsWarps = 8, kTokensOfWarp = kQueryPad / 16;

// padded_lse and delta [B, H, padded] from lse, out and dout [B, Tq, H(, V)]. kLanes lanes read a token's
// head, kV elements an access; a warp takes kTokensOfWarp tokens, all of whose loads are under way at once.
template <class T, int kV, int kLanes, int kVectors>
__global__ void __launch_bounds__(32 * kStatisticsWarps)
    statistics_kernel(AttentionArgs<T> a, HeadRows<const T> out, float* padded_lse, float* delta) {
  constexpr int kTokens = 32 / kLanes, kPasses = kTokensOfWarp / kTokens;
  const int head = blockIdx.y, batch = blockIdx.z, lane = threadIdx.x % kLanes;
  const int first =
      (blockIdx.x * kStatisticsWarps + threadIdx.x / 32) * kTokensOfWarp + threadIdx.x % 32 / kLanes;
  float dot[kPasses] = {};
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    const int query = min(first + pass * kTokens, a.num_queries - 1);  // what padding gets is not used
    const T* o = out.row(batch, a.num_queries, query, head, a.value_width);
    const T* g = a.dout.row(batch, a.num_queries, query, head, a.value_width);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int column = (i * kLanes + lane) * kV;
      float x[kV], y[kV];
      if (column >= a.value_width) break;
      if constexpr (kV == 1) {
        x[0] = to_float(o[column]), y[0] = to_float(g[column]);
      } else {
        load_vector(o + column, x);
        load_vector(g + column, y);
      }
#pragma unroll
      for (int c = 0; c < kV; ++c) dot[pass] = fmaf(x[c], y[c], dot[pass]);
    }
  }
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
#pragma unroll
    for (int offset = kLanes / 2; offset > 0; offset /= 2)
      dot[pass] += __shfl_xor_sync(0xffffffffu, dot[pass], offset);
    const int query = first + pass * kTokens;
    if (lane != 0) continue;
    const int64_t at = (int64_t(batch) * a.heads + head) * a.padded + query;
    const int64_t token = int64_t(batch) * a.num_queries + query;
    const int2 range = query < a.num_queries ? a.ranges[token] : int2{0, 0};
    const bool reads = range.x < range.y;
    delta[at] = reads ? dot[pass] : 0.0f;
    padded_lse[at] = reads ? a.lse[token * a.heads + head] * kLog2E : INFINITY;
  }
}

/// Whether every head of every token starts and ends on 16 bytes.
template <class T>
bool has_vectors(const HeadRows<const T>& rows, int width) {
  return width % kVector<T> == 0 && rows.stride % kVector<T> == 0 &&
         reinterpret_cast<uintptr_t>(rows.data) % 16 == 0;
}

template <class T>
void compute_statistics(cudaStream_t stream, const AttentionArgs<T>& a, HeadRows<const T> out,
                        float* padded_lse, float* delta) {
  const dim3 grid(a.padded / (kStatisticsWarps * kTokensOfWarp), a.heads, a.batch);
  const auto launch = [&](auto* kernel) {
    kernel<<<grid, 32 * kStatisticsWarps, 0, stream>>>(a, out, padded_lse, delta);
  };
  constexpr int kV = kVector<T>;
  const int vectors = a.value_width / kV;
  if (!has_vectors(out, a.value_width) || !has_vectors(a.dout, a.value_width)) {
    if constexpr (sizeof(T) == 4) launch(statistics_kernel<T, 1, 32, 8>);
  } else if (vectors <= 8) {
    launch(statistics_kernel<T, kV, 8, 1>);
  } else if (vectors <= 16) {
    launch(statistics_kernel<T, kV, 16, 1>);
  } else {
    launch(statistics_kernel<T, kV, 32, 2>);
  }
  check_launch("softmax_attention_statistics");
}

int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  SPANWISE_CUDA(cudaGetDevice(&device));
  SPANWISE_CUDA(cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}
int num_processors() {
  static const int num = device_attribute(cudaDevAttrMultiProcessorCount);
  return num;
}

/// q, k, v as kernels with 16-byte accesses, those of BF16, can read them; others are copied, and live as
/// long as this.
template <class T>
class Operands {
 public:
  Operands(Context& ctx, const AttentionInputs& in)
      : q_(aligned(ctx, in.q)), k_(aligned(ctx, in.k)), v_(aligned(ctx, in.v)) {
    args.batch = int(q_.dim(0));
    args.num_queries = int(q_.dim(1));
    args.num_keys = int(k_.dim(1));
    args.heads = int(q_.dim(2));
    args.kv_heads = int(k_.dim(2));
    args.key_width = int(q_.dim(3));
    args.value_width = int(v_.dim(3));
    args.num_processors = num_processors();
    args.padded = int(ceil_div(args.num_queries, kQueryPad) * kQueryPad);
    args.scale = float(in.scale);
    args.scale_log2 = float(in.scale * 1.4426950408889634);
    args.q = rows(q_);
    args.k = rows(k_);
    args.v = rows(v_);
    upload_ranges(ctx, in);
  }
  static HeadRows<const T> rows(const Tensor& t) {
    return {pointer<T>(t), t.row_stride(t.dim(2) * t.dim(3))};
  }
  static Tensor aligned(Context& ctx, const Tensor& t) {
    if (sizeof(T) == 4 || has_vectors(rows(t), int(t.dim(3)))) return t;
    const Tensor copy = Tensor::empty(ctx, t.shape(), t.dtype());
    copy.copy_from(t);
    return copy;
  }

  AttentionArgs<T> args{};

 private:
  void upload_ranges(Context& ctx, const AttentionInputs& in) {
    static_assert(sizeof(KeyBorders) == sizeof(int2) && sizeof(BlockBounds) == 4 * sizeof(int32_t));
    ranges_ = shared_upload(ctx, key_borders(in.ranges));
    args.ranges = static_cast<const int2*>(ranges_.raw());
    args.num_bounds = int(ceil_div(args.num_queries, kBoundsQueries));
    bounds_ = Tensor::empty(ctx, bounds_shape(in), DType::kI32);
    auto* bounds = static_cast<BlockBounds*>(bounds_.raw());
    bounds_kernel<<<dim3(args.num_bounds, args.batch), 32, 0, stream_of(ctx)>>>(args.ranges, args.num_queries,
                                                                                args.num_bounds, bounds);
    check_launch("softmax_attention_bounds");
    args.bounds = bounds;
  }

  Tensor q_, k_, v_, ranges_, bounds_;
};

bool runs_wgmma() {
  static const bool hopper = device_attribute(cudaDevAttrComputeCapabilityMajor) == 9;
  return hopper;
}

bool use_wgmma(AttentionPath path) {
  const bool asked = path == AttentionPath::kWgmma || path == AttentionPath::kWgmmaTwice;
  SPANWISE_CHECK(!asked || runs_wgmma(), "wgmma attention needs a GPU of compute capability 9.0");
  return path != AttentionPath::kMma && runs_wgmma();
}

void check_supported(const AttentionInputs& in) {
  SPANWISE_CHECK(in.scale > 0, "attention on CUDA takes a positive scale, got {}", in.scale);
  const int64_t width = in.q.dim(3), value_width = in.v.dim(3);
  SPANWISE_CHECK(gpu_limits::kAttentionHeads.takes(in.q.dtype(), width, value_width) &&
                     (in.q.dtype() != DType::kBF16 || width == value_width),
                 "attention on CUDA takes heads of {}, keys and values alike in BF16; got {} and {}",
                 gpu_limits::kAttentionHeads.taken(in.q.dtype()), width, value_width);
  SPANWISE_CHECK(in.q.dim(1) <= gpu_limits::kMostTokens && in.k.dim(1) <= gpu_limits::kMostTokens,
                 "{} queries, {} keys: too many a row", in.q.dim(1), in.k.dim(1));
  SPANWISE_CHECK(in.q.dim(0) <= gpu_limits::kMostGrid && in.q.dim(2) <= gpu_limits::kMostGrid,
                 "{} rows, {} heads: at most {}", in.q.dim(0), in.q.dim(2), gpu_limits::kMostGrid);
}

template <class T>
void forward(Context& ctx, const AttentionInputs& in, const AttentionForward& result, AttentionPath path) {
  Operands<T> operands(ctx, in);
  AttentionArgs<T>& args = operands.args;
  args.out = pointer<T>(result.out);
  args.lse = pointer<float>(result.log_sum_exp);
  if constexpr (sizeof(T) == 2) {
    if (use_wgmma(path)) {
      const Tensor tickets = Tensor::empty(ctx, Shape{1}, DType::kI32);
      args.turns = pointer<int32_t>(tickets);
      attention_fwd_wgmma(stream_of(ctx), args);
    } else {
      attention_fwd_mma(stream_of(ctx), args);
    }
  } else {
    attention_fwd_f32(stream_of(ctx), args);
  }
}

/// Whether backward takes the one-kernel way.
bool one_kernel(const AttentionShape& shape, int num_processors, AttentionPath path) {
  if (path == AttentionPath::kWgmmaTwice || !has_one_kernel(shape)) return false;
  return path == AttentionPath::kWgmma || one_kernel_is_quicker(shape, num_processors);
}

template <class T>
void backward(Context& ctx, const Tensor& dout_given, const AttentionInputs& in,
              const AttentionForward& result, const AttentionBackward& grads, AttentionPath path) {
  using Rows = Operands<T>;
  Rows operands(ctx, in);
  const Tensor dout = Rows::aligned(ctx, dout_given), out = Rows::aligned(ctx, result.out);
  AttentionArgs<T>& args = operands.args;
  args.lse = pointer<float>(result.log_sum_exp);
  args.dout = Rows::rows(dout);
  args.dq = pointer<T>(grads.dq);
  args.dk = pointer<T>(grads.dk);
  args.dv = pointer<T>(grads.dv);
  const AttentionShape shape = attention_shape(in);
  const Tensor statistics = Tensor::empty(ctx, statistics_shape(shape), DType::kF32);
  float* padded_lse = pointer<float>(statistics);
  float* delta = padded_lse + statistics.dim(1);
  args.padded_lse = padded_lse;
  args.delta = delta;
  const cudaStream_t stream = stream_of(ctx);
  compute_statistics(stream, args, Rows::rows(out), padded_lse, delta);
  if constexpr (sizeof(T) == 2) {
    if (!use_wgmma(path)) {
      attention_dkdv_mma(stream, args);
      attention_dq_mma(stream, args);
    } else if (one_kernel(shape, args.num_processors, path)) {
      const Tensor sums = Tensor::empty(ctx, dq_sums_shape(shape), DType::kF32);
      const Tensor turns = Tensor::empty(ctx, turns_shape(shape), DType::kI32);
      args.dq_sums = pointer<float>(sums);
      args.turns = pointer<int32_t>(turns);
      attention_bwd_wgmma(stream, args);
    } else {
      (args.key_width == 256 ? attention_dkdv_wide_wgmma : attention_dkdv_wgmma)(stream, args);
      attention_dq_wgmma(stream, args);
    }
  } else {
    attention_bwd_f32(stream, args);
  }
}

}  // namespace

void softmax_attention_fwd(Context& ctx, const AttentionInputs& in, const AttentionForward& forward_result,
                           AttentionPath path) {
  check_supported(in);
  if (in.q.numel() == 0) return;
  dispatch_cuda(in.q.dtype(), [&](auto zero) { forward<decltype(zero)>(ctx, in, forward_result, path); });
}
void softmax_attention_fwd(Context& ctx, const AttentionInputs& in, const AttentionForward& forward_result) {
  softmax_attention_fwd(ctx, in, forward_result, AttentionPath::kAuto);
}

void softmax_attention_bwd(Context& ctx, const Tensor& dout, const AttentionInputs& in,
                           const AttentionForward& forward_result, const AttentionBackward& grads,
                           AttentionPath path) {
  check_supported(in);
  dispatch_cuda(in.q.dtype(),
                [&](auto zero) { backward<decltype(zero)>(ctx, dout, in, forward_result, grads, path); });
}
void softmax_attention_bwd(Context& ctx, const Tensor& dout, const AttentionInputs& in,
                           const AttentionForward& forward_result, const AttentionBackward& grads) {
  softmax_attention_bwd(ctx, dout, in, forward_result, grads, AttentionPath::kAuto);
}

}  // namespace spanwise::cuda
