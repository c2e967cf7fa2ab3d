#pragma once
// gated_delta token by token in fp32, where exactness matters more than speed.
// Signatures as in core/ops/linear_kernels.h. Keys of up to 256 columns, values of any number.

#include "core/ops/linear_kernels.h"

namespace spanwise::cuda {

void recurrent_fwd(Context& ctx, const LinearStateCall& call, SegmentSet which,
                   const LinearStateForward& out);
void recurrent_bwd(Context& ctx, const LinearStateCall& call, SegmentSet which,
                   const LinearStateCotangents& from, const LinearStateGradients& d);
void recurrent_summarize(Context& ctx, const LinearStateCall& call, const SpanSummary* summary);
void recurrent_dstate(Context& ctx, const LinearStateCall& call, const Tensor& dout, const Tensor& dstate_in);

}  // namespace spanwise::cuda
