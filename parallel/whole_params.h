#pragma once
// Parameters and moments as whole tensors in host memory, whatever the layout and the device: what
// checkpoints hold. A piece is elements [begin, end) of the whole parameter, row-major, so that memory stays
// bounded for any size. In BF16 pieces of values() are those of the F32 masters.

#include "parallel/param_store.h"

namespace spanwise {

/// The piece of entries()[entry] out of `flat`, a buffer of the store (values or a moment), on every rank;
/// bit by bit what its owners hold. Collective.
Tensor gather_piece(const ParamStore& params, const Tensor& flat, int entry, FlatRange piece);

/// True if this rank holds any element of the piece in `flat`: what it must read from a checkpoint.
bool holds_piece(const ParamStore& params, const Tensor& flat, int entry, FlatRange piece);
/// Writes what this rank holds of the piece to `flat`. Where that is values(), ParamStore::publish_values
/// follows when all pieces are written.
void scatter_piece(const ParamStore& params, const Tensor& flat, int entry, FlatRange piece,
                   const Tensor& values);

}  // namespace spanwise
