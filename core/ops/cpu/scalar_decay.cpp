#include "core/ops/scalar_decay.h"

#include "core/ops/cpu/linear_scan.h"
#include "core/ops/cpu/linear_step.h"

namespace spanwise::cpu {

namespace {

/// The state takes v as it is.
template <class T>
struct PlainValues {
  PlainValues(const StateDims&, Scratch&) {}
  Strided<const T> make(const ChunkOperands<T>& x, const ChunkDecay<T>&, const T*) { return x.v; }
  Strided<T> gradients(Strided<T> dv) { return dv; }
  void backward(const ChunkOperands<T>&, const ChunkDecay<T>&, const T*, const ChunkGradients<T>&, Strided<T>,
                Strided<T>) {}
  void retreat(const ChunkOperands<T>&, const ChunkDecay<T>&, T*) {}
};

}  // namespace

void scalar_decay_fwd(Context& ctx, const LinearStateCall& call, const LinearStateForward& out) {
  dispatch_float(call.q.dtype(), [&](auto zero) {
    using T = decltype(zero);
    scan_forward<T, PlainValues<T>>(ctx, call, out);
  });
}

void scalar_decay_bwd(Context& ctx, const LinearStateCall& call, const Tensor& chunk_states,
                      const Tensor& dout, const Tensor& dfinal_state, const LinearStateGradients& out) {
  dispatch_float(call.q.dtype(), [&](auto zero) {
    using T = decltype(zero);
    scan_backward<T, PlainValues<T>>(ctx, call, chunk_states, dout, dfinal_state, out);
  });
}

void scalar_decay_step(Context& ctx, const LinearStateStep& step, const Tensor& out) {
  linear_step(ctx, step, out);
}

}  // namespace spanwise::cpu
