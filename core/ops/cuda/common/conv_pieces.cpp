#include "core/ops/cuda/common/conv_pieces.h"

#include <algorithm>

#include "core/ops/cuda/common/alignment.h"

namespace spanwise::cuda {

namespace {

// About so many: enough that the window's reload, from the L2, hardly counts, and few enough that blocks come
// and go evenly.
constexpr int64_t kTokensPerBlock = 64;

}  // namespace

std::vector<ConvPiece> cut_pieces(const std::vector<Segment>& segments, int64_t length, int64_t tokens,
                                  std::vector<int32_t>* first) {
  std::vector<ConvPiece> pieces;
  for (const Segment& s : segments) {
    for (int64_t begin = s.begin; begin < s.end;) {
      const int64_t flat = s.row * length + begin;
      const int64_t end = std::min(s.end, begin + tokens - flat % tokens);
      if (first && (first->empty() || flat % tokens == 0)) first->push_back(int32_t(pieces.size()));
      pieces.push_back({int32_t(s.row), int32_t(begin), int32_t(end), int32_t(s.begin), int32_t(s.end),
                        s.continues ? 1 : 0});
      begin = end;
    }
  }
  if (first) first->push_back(int32_t(pieces.size()));
  return pieces;
}

int64_t conv_tokens_per_block(int64_t tokens, int64_t tiles, int64_t resident) {
  const int64_t blocks = ceil_div(tokens * tiles, kTokensPerBlock);
  const int64_t waves = std::max<int64_t>((blocks + resident / 2) / resident, 1);
  return std::max<int64_t>(ceil_div(ceil_div(tokens * tiles, waves * resident), kConvAhead), 2) * kConvAhead;
}

int64_t conv_tokens_per_range(int64_t tokens, int64_t tiles, int64_t resident) {
  return std::max<int64_t>(ceil_div(tokens, std::max<int64_t>(resident / tiles, 1)), 16);
}

bool conv_copies(const ShortConvInputs& in, const Tensor& cotangent) {
  return in.heads.dim > 0 && !rows_are_aligned({&cotangent}, in.x.dim(-1), kWideConv);
}

bool short_conv_divides_heads(const ShortConvInputs& in) {
  return in.activation == Activation::kSiLU && short_conv_kernel_takes_heads(in.heads.dim) &&
         rows_are_aligned({&in.x, &in.initial_state}, in.x.dim(-1), kWideConv);
}

}  // namespace spanwise::cuda
