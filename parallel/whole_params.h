#pragma once
// Parameters and moments as whole tensors in host memory, whatever the layout and the device: what
// checkpoints hold. A piece is elements [begin, end) of the whole parameter, row-major, so that memory stays
// bounded for any size. In BF16 pieces of values() are those of the F32 masters.

#include <vector>

#include "parallel/param_holders.h"
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

/// Elements `piece` of entries()[entry] in `flat`, for tensor rank 0 at `position` of the data × sequence
/// axis.
struct WantedPiece {
  int entry;
  Tensor flat;
  FlatRange piece;
  int position;
  void* to;  ///< there: host memory of piece.numel() elements; elsewhere nothing
};
/// Fills them bit by bit: each wanting rank receives what it does not hold, once, from its owners. Every rank
/// of `world`, the mesh's, gives the same pieces in the same order. Collective where someone lacks something.
void collect_pieces(const ParamHolders& holders, Comm& world, const std::vector<WantedPiece>& pieces);

/// The other way: `values`, host memory of rank 0 of `world` and undefined elsewhere, goes to every rank that
/// holds some of the piece in `flat`, and each receives what it holds, once. As scatter_piece, values() must
/// be published afterwards. Collective where someone else holds something.
void deliver_piece(const ParamHolders& holders, Comm& world, const Tensor& flat, int entry, FlatRange piece,
                   const Tensor& values);

}  // namespace spanwise
