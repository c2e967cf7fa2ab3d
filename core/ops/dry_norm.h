#pragma once
// What the norms' backward takes, for dry runs.

#include <initializer_list>

#include "core/ops/cuda/common/alignment.h"
#include "core/ops/cuda/common/temporaries.h"
#include "core/ops/dim_part.h"

namespace spanwise::dry {

/// A number a row: the CPU for all rows, a GPU where they are divided, and then reduced over the parts; on a
/// GPU partials of the weight's gradient as well. `rows`: the operands that kernels read and write in packs.
inline void dry_norm_bwd(Context& ctx, const Tensor& x, const Tensor& weight, const Tensor& rstd,
                         std::initializer_list<const Tensor*> rows, const DimPart& part) {
  const bool gpu = ctx.device() == Device::kCUDA;
  Tensor dots, partials;
  if (!gpu || part.divided()) dots = Tensor::empty(ctx, rstd.shape(), rstd.dtype());
  if (gpu && weight.defined()) {
    const int64_t width = x.dim(-1);
    const bool aligned = cuda::rows_are_aligned(rows, width, 16 / int(size_of(x.dtype())));
    const int64_t elems =
        cuda::most_row_partials(x.dtype(), aligned, rstd.numel(), width, weight.numel() / width);
    if (elems > 0) partials = Tensor::empty(ctx, {elems}, DType::kF32);
  }
  if (part.divided()) part.sum(dots);
}

}  // namespace spanwise::dry
