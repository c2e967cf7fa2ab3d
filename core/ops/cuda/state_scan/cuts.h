#pragma once
// How a scalar-decay call on a GPU is cut, and what its scans save (scan.h). No CUDA types: plans of
// runs ask, too.

#include <vector>

#include "core/ops/linear_kernels.h"

namespace spanwise::cuda {

constexpr int kScanChunk = 64;    ///< tokens
constexpr int kScanSlab = 64;     ///< columns of v a block of the bf16 kernel
constexpr int kScanSlabF32 = 32;  ///< of the fp32 kernel

/// How a call's tokens are cut: the same for all its scans.
class ScanCuts {
 public:
  /// `chunks` must outlive it. `initial_state`: there is one, which rows that continue go on from.
  ScanCuts(const LinearStateShape& shape, const ChunkList& chunks, bool initial_state);
  explicit ScanCuts(const LinearStateCall& call)
      : ScanCuts(shape_of(call), call.chunks, call.initial_state.defined()) {}

  struct Segment {
    int64_t row, begin, length;  ///< flat tokens
    bool continues, ends_row;
    /// Equal pieces but for the last; piece i starts at begin + i · piece_length, and cut first_cut + i lies
    /// at its end.
    int64_t num_pieces, piece_length, first_cut;
    int64_t first_slot;
  };
  /// Tokens of a segment between two saved states.
  struct Group {
    int32_t begin, length;
    int32_t slot;          ///< of the state after it; -1: no gradient comes from there
    int32_t starts_empty;  ///< 1: no state comes into its first token
  };
  std::vector<Segment> select(SegmentSet which) const;
  std::vector<Group> groups(SegmentSet which) const;
  int64_t num_cuts() const { return num_cuts_; }
  int64_t num_slots() const { return num_slots_; }  ///< saved states; 0 unless decays have a gradient
  /// Chunks of all short segments in one run.
  int64_t run_chunks() const { return run_chunks_; }

 private:
  const ChunkList& chunks_;
  bool initial_state_;
  std::vector<Segment> segments_;
  int64_t num_cuts_ = 0, num_slots_ = 0, run_chunks_ = 0;
};

/// Saved-state slot of a segment's chunk, or -1.
int64_t saved_slot(const ScanCuts::Segment& segment, int64_t chunk, int64_t num_chunks);

/// Of a scan with this value width.
int64_t num_slabs(DType dtype, int64_t value_width);
/// States for the gradients of decays, of the operands' dtype; no elements where decays have none.
Shape saved_states_shape(const LinearStateShape& shape, const ScanCuts& cuts);
/// States at the cuts, F32.
Shape cut_states_shape(const LinearStateShape& shape, const ScanCuts& cuts);

/// Undefined where the call has none.
Tensor allocate_saved_states(Context& ctx, const LinearStateCall& call, const ScanCuts& cuts);
Tensor allocate_cut_states(Context& ctx, const LinearStateCall& call, const ScanCuts& cuts);
/// x_t · out_t of a scan for dq or dk, in every slab; undefined where decays have no gradient.
Tensor allocate_dots(Context& ctx, const LinearStateCall& call, bool dlog_decay);
/// ⟨saved state, the scan's state there⟩ in every slab.
Tensor allocate_state_dots(Context& ctx, const LinearStateCall& call, const ScanCuts& cuts);
/// Where a scan writes a gradient of q or k; undefined where value heads share no key head.
Tensor allocate_per_value_head(Context& ctx, const LinearStateCall& call);
/// States and decays at the cuts of a scan that starts from zero at each.
Tensor allocate_cut_logs(Context& ctx, const LinearStateCall& call, const ScanCuts& cuts);

}  // namespace spanwise::cuda
