#include "core/ops/cuda/linear_step.h"

#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/common/vector.cuh"

namespace spanwise::cuda {

namespace {

constexpr int kThreads = 256, kColumns = 32, kParts = kThreads / kColumns;

/// q [·, H, K] and the like: rows of all heads, `stride` elements apart.
template <class T>
struct StepRows {
  const T* data;
  int64_t stride;
};

template <class T>
struct StepParams {
  StepRows<T> q, k, v;
  StepRows<float> log_decay, beta;  // data nullptr: none; without beta v is written
  const float* head_log_decay;
  float* state;
  T* out;
  float scale;
  int H, HV, K, V;
};

/// One block: a row, a value head and 32 columns of v; thread: one column, every kParts-th row of the state.
template <class T>
__global__ void __launch_bounds__(kThreads) linear_step_kernel(const StepParams<T> p) {
  __shared__ float partial[kParts][kColumns];
  const int row = blockIdx.x, head = blockIdx.y, lane = threadIdx.x % kColumns, part = threadIdx.x / kColumns,
            column = blockIdx.z * kColumns + lane;
  const bool inside = column < p.V;
  const auto column_total = [&](float sum) {
    __syncthreads();
    partial[part][lane] = sum;
    __syncthreads();
    float total = 0;
    for (int i = 0; i < kParts; ++i) total += partial[i][lane];
    return total;
  };
  const int key_head = head / (p.HV / p.H);
  const T *q = p.q.data + row * p.q.stride + key_head * p.K,
          *k = p.k.data + row * p.k.stride + key_head * p.K;
  float* state = p.state + (int64_t(row) * p.HV + head) * p.K * p.V + column;
  float log_decay = p.head_log_decay ? p.head_log_decay[head] : 0.f;
  if (p.log_decay.data) log_decay = p.log_decay.data[row * p.log_decay.stride + head];
  const float decay = expf(log_decay);
  float write = inside ? to_float(p.v.data[row * p.v.stride + head * p.V + column]) : 0.f;
  if (p.beta.data) {
    float read = 0;
    for (int i = part; inside && i < p.K; i += kParts) read += to_float(k[i]) * state[int64_t(i) * p.V];
    write = p.beta.data[row * p.beta.stride + head] * (write - decay * column_total(read));
  }
  float read = 0;
  for (int i = part; inside && i < p.K; i += kParts) {
    float& s = state[int64_t(i) * p.V];
    s = decay * s + to_float(k[i]) * write;
    read += to_float(q[i]) * s;
  }
  const float total = column_total(read);
  if (part == 0 && inside)
    p.out[(int64_t(row) * p.HV + head) * p.V + column] = from_float<T>(p.scale * total);
}

template <class T>
StepRows<T> rows_of(const Tensor& t, int64_t width) {
  if (!t.defined()) return {nullptr, 0};
  return {pointer<T>(t), t.row_stride(width)};
}

}  // namespace

template <StateWrite kWrite>
void linear_step(Context& ctx, const LinearOperands<Tensor>& x, double scale, const Tensor& out) {
  const LinearStateShape s = shape_of(x);
  const int64_t B = s.rows, H = s.key_heads, K = s.key_dim, HV = s.value_heads, V = s.value_dim;
  const Tensor beta = kWrite == StateWrite::kDelta ? x.beta : Tensor();
  if (B == 0) return;
  dispatch_cuda(s.dtype, [&](auto zero) {
    using T = decltype(zero);
    const StepParams<T> params{.q = rows_of<T>(x.q, H * K),
                               .k = rows_of<T>(x.k, H * K),
                               .v = rows_of<T>(x.v, HV * V),
                               .log_decay = rows_of<float>(x.log_decay, HV),
                               .beta = rows_of<float>(beta, HV),
                               .head_log_decay = pointer<float>(x.head_log_decay),
                               .state = pointer<float>(x.initial_state),
                               .out = pointer<T>(out),
                               .scale = float(scale),
                               .H = int(H),
                               .HV = int(HV),
                               .K = int(K),
                               .V = int(V)};
    linear_step_kernel<T>
        <<<dim3(unsigned(B), unsigned(HV), unsigned(ceil_div(V, kColumns))), kThreads, 0, stream_of(ctx)>>>(
            params);
    check_launch("linear_step");
  });
}

template void linear_step<StateWrite::kValue>(Context&, const LinearOperands<Tensor>&, double, const Tensor&);
template void linear_step<StateWrite::kDelta>(Context&, const LinearOperands<Tensor>&, double, const Tensor&);

}  // namespace spanwise::cuda
