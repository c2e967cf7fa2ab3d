#pragma once
// How ops' work is counted, by each op itself (core/dispatch.h):
//
//   flops             of products of matrices and vectors, a multiply-add as 2, that the model's equations
//                     ask for: projections, attention's pairs of queries and keys that the mask keeps,
//                     states of linear layers, convolutions. Backward: of the gradients' products. What runs
//                     are compared by (model FLOPs utilisation); norms, gates and sums are not in it.
//   recomputed_flops  the same again for backward, which kept less than it reads (checkpointed sections,
//                     dropped results, attention's scores), and what a layout adds: span summaries and folds
//   bytes             of operands read and results written, once each, whatever caches hold
//
// None hangs on the kernel that computes, or on the device, so that figures of different ones compare.

namespace spanwise {

struct Work {
  double flops = 0, recomputed_flops = 0, bytes = 0;

  Work& operator+=(const Work& more) {
    flops += more.flops;
    recomputed_flops += more.recomputed_flops;
    bytes += more.bytes;
    return *this;
  }
};

}  // namespace spanwise
