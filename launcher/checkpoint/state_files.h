#pragma once
// The buffers that a checkpoint's tensors are read into, and the pieces that these come in.

#include <algorithm>
#include <string>
#include <vector>

#include "parallel/sharded_adamw.h"

namespace spanwise {

/// Whole tensors go between ranks and files in pieces of at most this many bytes.
inline constexpr int64_t kPieceBytes = 16 << 20;

/// Parameters, or one of their moments: tensors NAME + suffix.
struct NamedBuffer {
  const char* suffix;
  Tensor flat;
};

inline std::vector<NamedBuffer> model_buffers(const ParamStore& params) {
  return {{"", params.values()}};
}

inline std::vector<NamedBuffer> optimizer_buffers(const ShardedAdamW& optimizer) {
  return {{".exp_avg", optimizer.first_moment()}, {".exp_avg_sq", optimizer.second_moment()}};
}

/// Calls fn(piece) for all of a whole parameter.
template <class F>
void for_each_piece(const ParamStore& params, int entry, F&& fn) {
  const int64_t numel = params.entries()[entry].param->global_shape().numel();
  const int64_t most = kPieceBytes / int64_t(size_of(params.master_dtype()));
  for (int64_t begin = 0; begin < numel; begin += most) fn(FlatRange{begin, std::min(begin + most, numel)});
}

}  // namespace spanwise
