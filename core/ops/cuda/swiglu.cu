#include "core/ops/swiglu.h"

#include "core/ops/cuda/common/activations.cuh"
#include "core/ops/cuda/common/elementwise.cuh"

namespace spanwise::cuda {

namespace {

struct Swiglu {
  __device__ void operator()(const float (&in)[2], float (&out)[1]) const {
    out[0] = activate<Activation::kSiLU>(in[0]) * in[1];
  }
};

struct SwigluBackward {
  __device__ void operator()(const float (&in)[3], float (&out)[2]) const {  // dy, gate, up → dgate, dup
    const SiluValue f = silu_value(in[1]);
    out[0] = in[0] * in[2] * f.derivative;
    out[1] = in[0] * f.value;
  }
};

}  // namespace

void swiglu_fwd(const Context& ctx, const Tensor& gate, const Tensor& up, const Tensor& y) {
  dispatch_cuda(gate.dtype(), [&](auto zero) {
    using T = decltype(zero);
    elementwise<T, T, 2, 1>(ctx, "swiglu", {&gate, &up}, {&y}, Swiglu{});
  });
}

void swiglu_bwd(const Context& ctx, const Tensor& dy, const Tensor& gate, const Tensor& up,
                const Tensor& dgate, const Tensor& dup) {
  dispatch_cuda(gate.dtype(), [&](auto zero) {
    using T = decltype(zero);
    elementwise<T, T, 3, 2>(ctx, "swiglu backward", {&dy, &gate, &up}, {&dgate, &dup}, SwigluBackward{});
  });
}

}  // namespace spanwise::cuda
