#pragma once
// Tensor parallelism (Shoeybi et al., arXiv 1909.08053): the ranks of the mesh's tensor axis see the same
// tokens and divide heads, feed-forward columns and vocabulary rows.
//
//   y = reduce_from(rows(local work(columns(copy_to(x)))))
//
// columns: a linear layer whose output dimension is divided; rows: one whose input dimension is. Between the
// pair each rank computes one term of a sum, and gradients are those of its own term: a parameter that
// several ranks hold there gets a part of its gradient on each (Placement::partial_gradient). Outside the
// pair values and gradients are the same on every rank, bit for bit. A group of one rank communicates nothing
// and changes nothing.
//
// Sequence-sharded norms (Korthikanti et al., arXiv 2205.05198) take another pair,
//
//   y = scatter_rows_sum(rows(local work(columns(gather_rows(x)))))
//
// outside which each rank holds some rows (tokens) alone, and the work there is divided, too. The pair
// receives as many bytes as the other: an all-reduce is a reduce-scatter and an all-gather. A parameter that
// is read on a rank's own rows gets a part of its gradient as well.

#include <initializer_list>
#include <string_view>

#include "core/autograd.h"
#include "core/module.h"
#include "core/ops/dim_part.h"
#include "parallel/comm.h"

namespace spanwise {

/// The ranks that share one model. Passed by value; `comm` must outlive models built with it and every
/// backward.
struct TensorGroup {
  Comm* comm = nullptr;  ///< null: one rank
  int rank() const { return comm ? comm->rank() : 0; }
  int size() const { return comm ? comm->size() : 1; }
};

/// Forward: x itself. Backward: dx = Σ over ranks of their dx, while gradients of the weights that read x are
/// computed.
Var copy_to(Tape& tape, const TensorGroup& group, const Var& x);
/// Forward: Σ over ranks of their x; kept under activation checkpointing, so that recomputation does not
/// communicate. Backward: dx = dy.
Var reduce_from(Tape& tape, const TensorGroup& group, const Var& x);

// Rank r of W holds rows [r·m, (r + 1)·m) of n, m = ceil(n / W); rows from n on are padding: zeros, whose
// gradients are zeros. Both receive (W − 1)·m rows each way, and under activation checkpointing keep what
// forward received, so that recomputation does not communicate.

/// x [m, D] → the rows of all ranks without padding, as `whole` [..., D]. Backward: dx = the own rows of
/// Σ over ranks of their dy, weights' gradients meanwhile.
Var gather_rows(Tape& tape, const TensorGroup& group, const Var& x, const Shape& whole);
/// x [..., D] → the own rows [m, D] of Σ over ranks of their x. Backward: dx = the rows of all ranks' dy.
Var scatter_rows_sum(Tape& tape, const TensorGroup& group, const Var& x);

/// A dimension of a parameter as one rank holds it.
struct SplitDim {
  int64_t whole;
  std::vector<Placement::Range> ranges;  ///< held by this rank, ascending
  bool partial_gradient = false;         ///< some elements lie on several ranks

  /// Every rank holds all of it and computes its whole gradient. Implicit: a plain size is such a dimension.
  SplitDim(int64_t size) : whole(size), ranges{{0, size}} {}  // NOLINT(google-explicit-constructor)
  SplitDim(int64_t whole, std::vector<Placement::Range> ranges, bool partial_gradient)
      : whole(whole), ranges(std::move(ranges)), partial_gradient(partial_gradient) {}
  /// Elements held by this rank.
  int64_t size() const;
  bool divided() const { return size() != whole; }
  /// Each element becomes `width` consecutive ones: heads → channels.
  SplitDim times(int64_t width) const;
};

/// The stream between divided layers, and the pair around each of them that goes with it: whole on every rank
/// (copy_to, reduce_from), or a rank's own rows (gather_rows, scatter_rows_sum).
class TensorStream {
 public:
  /// One rank has all rows either way.
  TensorStream(const TensorGroup& group, bool shard_rows)
      : group_(group), sharded_(shard_rows && group.size() > 1) {}
  bool sharded() const { return sharded_; }
  /// Rows held of `rows`, padding included.
  int64_t held_rows(int64_t rows) const;
  /// The stream's x as a layer reads it; `whole`: its shape over all rows.
  Var enter(Tape& tape, const Var& x, const Shape& whole) const;
  /// A layer's term of the sum, back in the stream.
  Var leave(Tape& tape, const Var& x) const;
  /// A dimension of parameters that are read in the stream.
  SplitDim parameter(int64_t size) const;

 private:
  TensorGroup group_;
  bool sharded_;
};

// `field` names the setting in errors; all throw UserError where the ranks cannot divide it.

/// Equal parts: heads that belong to one rank each.
SplitDim divide(const TensorGroup& group, int64_t heads, std::string_view field);
/// Equal parts, or, with fewer heads than ranks, one head on size/heads neighbouring ranks each.
SplitDim divide_or_share(const TensorGroup& group, int64_t heads, std::string_view field);
/// Parts that differ by at most one element: rank r holds [r·n/W, (r + 1)·n/W).
SplitDim divide_unevenly(const TensorGroup& group, int64_t size, std::string_view field);
/// All of it on every rank, used between copy_to and reduce_from or on a rank's own rows.
SplitDim share(const TensorGroup& group, int64_t size);
/// Dimensions one after another, as in a fused projection.
SplitDim concatenate(std::initializer_list<SplitDim> parts);

/// A parameter whose dimension `dim` is `split`; shape[dim] is taken from there.
Param split_param(const Shape& shape, int dim, const SplitDim& split, Init init, bool weight_decay = true);

/// What ops that reduce along a divided dimension need; nothing where it is not divided. `name` names the
/// traffic. The dimension must be one range.
DimPart dim_part(const TensorGroup& group, const SplitDim& split, std::string_view name);
/// The same for a dimension of `num_groups` equal groups that are reduced apart. This rank holds whole
/// groups, which need no other rank, or a part of one. ctx must outlive it.
DimPart grouped_dim_part(Context& ctx, const TensorGroup& group, const SplitDim& split, int64_t num_groups,
                         std::string_view name);

}  // namespace spanwise
