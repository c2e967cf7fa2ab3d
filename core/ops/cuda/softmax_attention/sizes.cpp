#include "core/ops/cuda/softmax_attention/sizes.h"

#include <algorithm>
#include <climits>

#include "core/ops/cuda/common/alignment.h"
#include "core/ops/cuda/common/ceil_div.h"
#include "core/ops/cuda/common/hopper.h"
#include "core/shared_upload.h"

namespace spanwise::cuda {

namespace {

bool is_staggered(const KeyRanges& ranges, int64_t num_queries) {
  constexpr int64_t kFew = 2 * kQueryPad;  // keys
  for (size_t row = 0; row < ranges.begin.size(); row += size_t(num_queries)) {
    int64_t reached = -1;  // the keys that queries so far read end here
    for (size_t block = row; block < row + size_t(num_queries); block += kBoundsQueries) {
      int64_t begin = INT_MAX, end = 0;
      for (size_t i = block; i < std::min(block + kBoundsQueries, row + size_t(num_queries)); ++i) {
        if (ranges.begin[i] == ranges.end[i]) continue;
        begin = std::min(begin, ranges.begin[i]);
        end = std::max(end, ranges.end[i]);
      }
      if (end == 0) continue;
      if (end - std::max(begin, reached) > kFew) return false;
      reached = std::max(reached, end);
    }
  }
  return true;
}

int64_t padded_elems(const AttentionShape& s) {
  return s.batch * s.heads * ceil_div(s.num_queries, kQueryPad) * kQueryPad;
}

}  // namespace

AttentionShape attention_shape(const AttentionInputs& in) {
  return {.batch = in.q.dim(0),
          .num_queries = in.q.dim(1),
          .num_keys = in.k.dim(1),
          .heads = in.q.dim(2),
          .kv_heads = in.k.dim(2),
          .head_dim = in.q.dim(3),
          .dtype = in.q.dtype(),
          .staggered = is_staggered(in.ranges, in.q.dim(1))};
}

std::vector<KeyBorders> key_borders(const KeyRanges& ranges) {
  std::vector<KeyBorders> borders(ranges.begin.size());
  for (size_t i = 0; i < borders.size(); ++i) borders[i] = {int32_t(ranges.begin[i]), int32_t(ranges.end[i])};
  return borders;
}

Shape bounds_shape(const AttentionInputs& in) {
  return {in.q.dim(0) * ceil_div(in.q.dim(1), kBoundsQueries), 4};
}

bool has_one_kernel(const AttentionShape& s) {
  return s.dtype == DType::kBF16 && s.head_dim == 128 && s.staggered;
}
bool one_kernel_is_quicker(const AttentionShape& s, int num_processors) {
  return ceil_div(s.num_keys, kQueryPad) * s.kv_heads * s.batch >= 24 * int64_t(num_processors);
}

Shape statistics_shape(const AttentionShape& s) {
  return {2, padded_elems(s)};
}
Shape dq_sums_shape(const AttentionShape& s) {
  return {padded_elems(s), s.head_dim};
}
Shape turns_shape(const AttentionShape& s) {
  return {1 + padded_elems(s) / kBoundsQueries};
}

namespace {

/// What both passes hold to their end: operands as kernels can read them, the keys of queries.
std::vector<Tensor> hold_operands(Context& ctx, const AttentionInputs& in,
                                  std::initializer_list<const Tensor*> more) {
  std::vector<Tensor> held;
  const auto hold_aligned = [&](const Tensor& t) {
    if (t.dtype() == DType::kBF16 && !heads_are_aligned(t))
      held.push_back(Tensor::empty(ctx, t.shape(), t.dtype()));
  };
  for (const Tensor* t : {&in.q, &in.k, &in.v}) hold_aligned(*t);
  held.push_back(shared_upload(ctx, key_borders(in.ranges)));
  held.push_back(Tensor::empty(ctx, bounds_shape(in), DType::kI32));
  for (const Tensor* t : more) hold_aligned(*t);
  return held;
}

}  // namespace

void dry_attention_fwd(Context& ctx, const AttentionInputs& in) {
  if (in.q.numel() == 0) return;
  const std::vector<Tensor> held = hold_operands(ctx, in, {});
  if (in.q.dtype() == DType::kBF16) const Tensor tickets = Tensor::empty(ctx, {1}, DType::kI32);
}

void dry_attention_bwd(Context& ctx, const Tensor& dout, const AttentionInputs& in, const Tensor& out) {
  const std::vector<Tensor> held = hold_operands(ctx, in, {&dout, &out});
  const AttentionShape shape = attention_shape(in);
  const Tensor statistics = Tensor::empty(ctx, statistics_shape(shape), DType::kF32);
  if (!has_one_kernel(shape) || !one_kernel_is_quicker(shape, kHopperProcessors)) return;
  const Tensor sums = Tensor::empty(ctx, dq_sums_shape(shape), DType::kF32);
  const Tensor turns = Tensor::empty(ctx, turns_shape(shape), DType::kI32);
}

int64_t softmax_attention_bwd_bytes(const AttentionShape& s) {
  int64_t elems = statistics_shape(s).numel();
  if (has_one_kernel(s) && one_kernel_is_quicker(s, kHopperProcessors))
    elems += dq_sums_shape(s).numel() + turns_shape(s).numel();
  return elems * int64_t(sizeof(float));
}

}  // namespace spanwise::cuda
