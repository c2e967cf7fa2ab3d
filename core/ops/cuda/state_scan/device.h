#pragma once
// What a launch of a state scan (scan.h) hands to its kernels.

#include <cuda_runtime.h>

#include <cstdint>

#include "core/ops/cuda/state_scan/cuts.h"

namespace spanwise::cuda {

/// Rows of one operand: element (token, head, i) is data[token · stride + head / group · width + i].
struct ScanOperand {
  const void* data = nullptr;
  int64_t stride = 0;
  int group = 1;
};

enum class ScanStart : int32_t {
  kGoOn,  ///< from the chunk before it in the run
  kZero,
  kRow,  ///< from first_states[slot]
  kCut,  ///< from cut_states[slot]
};
enum class ScanStore : int32_t {
  kNowhere,
  kRow,  ///< to last_states[slot]
  kCut,  ///< to cut_states[slot], and the run's sum of log decays to cut_logs[slot]
};

/// Up to 64 tokens of one segment.
struct alignas(16) ScanChunk {
  int32_t begin, length;  ///< flat token index row·T + t
  ScanStart start;
  int32_t start_slot;
  ScanStore store;  ///< after the chunk
  int32_t store_slot;
  int32_t saved_slot;  ///< of saved_states: forward in time after the chunk, backward before it; or -1
  int32_t padding;
};
static_assert(sizeof(ScanChunk) == 32);

/// Chunks that one block works on, one after another.
struct ScanRun {
  int32_t first, count;
  int32_t one_piece;  ///< 1: all of one segment, and only its last chunk stores a state
};

struct ScanParams {
  ScanOperand q, k, v, x;  ///< x.data nullptr: no dots
  void* out;               ///< [tokens, heads, DV]; nullptr: states only
  const float* log_decay;  ///< [tokens, heads], rows log_stride apart; nullptr: head_log_decay or none
  int64_t log_stride;
  const float* head_log_decay;  ///< [heads]
  float read_scale, write_scale;
  bool backward_in_time;
  int DK, DV, heads, slabs;
  int64_t tokens;
  int state_stride_k, state_stride_v;  ///< of first_states, last_states and cut_states
  const float* first_states;
  float *last_states, *cut_states;
  float* cut_logs;  ///< [cuts, heads], base 2
  void* saved_states;
  float* saved_dots;  ///< [slabs, saved slots, heads]; nullptr: saved_states are written
  int num_saved;
  float* x_dots;  ///< [slabs, heads, tokens]
  const ScanChunk* chunks;
  const ScanRun* runs;
  int num_runs;
};

constexpr float kSmallestLog = -100;  ///< e^-100 is zero in fp32 sums; cut there, infinities subtract

/// One block a (run, head, slab); instances: DK 64, 128, 256.
template <int DK>
void launch_state_scan(const ScanParams& params, cudaStream_t stream);
void launch_state_scan_f32(const ScanParams& params, cudaStream_t stream);

}  // namespace spanwise::cuda
