#include "core/ops/pointwise.h"

#include "core/ops/activation_dispatch.h"
#include "core/ops/cuda/common/activations.cuh"
#include "core/ops/cuda/common/elementwise.cuh"

namespace spanwise::cuda {

namespace {

struct Add {
  __device__ void operator()(const float (&in)[2], float (&out)[1]) const { out[0] = in[0] + in[1]; }
};

struct Multiply {
  __device__ void operator()(const float (&in)[2], float (&out)[1]) const { out[0] = in[0] * in[1]; }
};

template <Activation kKind>
struct Activate {
  __device__ void operator()(const float (&in)[1], float (&out)[1]) const { out[0] = activate<kKind>(in[0]); }
};

template <Activation kKind>
struct ActivateBackward {
  __device__ void operator()(const float (&in)[2], float (&out)[1]) const {
    out[0] = in[0] * activation_derivative<kKind>(in[1]);
  }
};

}  // namespace

void add(const Context& ctx, const Tensor& a, const Tensor& b, const Tensor& out) {
  dispatch_cuda(a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    elementwise<T, T, 2, 1>(ctx, "add", {&a, &b}, {&out}, Add{});
  });
}

void multiply(const Context& ctx, const Tensor& a, const Tensor& b, const Tensor& out) {
  dispatch_cuda(a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    elementwise<T, T, 2, 1>(ctx, "multiply", {&a, &b}, {&out}, Multiply{});
  });
}

void activation_fwd(const Context& ctx, const Tensor& x, Activation kind, const Tensor& y) {
  dispatch_cuda(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    dispatch_activation(kind, [&](auto k) {
      elementwise<T, T, 1, 1>(ctx, "activation", {&x}, {&y}, Activate<decltype(k)::value>{});
    });
  });
}

void activation_bwd(const Context& ctx, const Tensor& dy, const Tensor& x, Activation kind,
                    const Tensor& dx) {
  dispatch_cuda(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    dispatch_activation(kind, [&](auto k) {
      elementwise<T, T, 2, 1>(ctx, "activation backward", {&dy, &x}, {&dx},
                              ActivateBackward<decltype(k)::value>{});
    });
  });
}

}  // namespace spanwise::cuda
