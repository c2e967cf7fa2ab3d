#pragma once
// How the short convolution is cut on a GPU. No CUDA types: dry runs ask, too.

#include <vector>

#include "core/ops/cuda/common/ceil_div.h"
#include "core/ops/short_conv.h"

namespace spanwise::cuda {

inline constexpr int kConvThreads = 128;
/// Tokens on their way while a thread of forward computes one.
inline constexpr int kConvAhead = 8;
/// Channels of a thread where rows are aligned.
inline constexpr int kWideConv = 4;

/// Blocks across the channels.
inline int64_t conv_tiles(int64_t channels, int channels_per_thread) {
  return ceil_div(channels, kConvThreads * channels_per_thread);
}

/// Tokens [begin, end) of one segment.
struct ConvPiece {
  int32_t row, begin, end, segment_begin, segment_end, continues;
};

/// Segments cut at multiples of `tokens` in the flat token order. `first`: where given, the index of the
/// first piece of every such range, and at its end the number of pieces.
std::vector<ConvPiece> cut_pieces(const std::vector<Segment>& segments, int64_t length, int64_t tokens,
                                  std::vector<int32_t>* first);

/// Tokens of a block, such that the blocks fill the GPU, which runs `resident` of them, a whole number of
/// times.
int64_t conv_tokens_per_block(int64_t tokens, int64_t tiles, int64_t resident);
/// Tokens of the ranges that backward leaves partial gradients of.
int64_t conv_tokens_per_range(int64_t tokens, int64_t tiles, int64_t resident);

/// What backward reads in aligned rows where heads are divided: copied if its rows are not.
bool conv_copies(const ShortConvInputs& in, const Tensor& cotangent);

}  // namespace spanwise::cuda
