#include "core/ops/cuda/softmax_attention/sizes.h"

#include "core/ops/cuda/common/ceil_div.h"
#include "core/ops/cuda/common/hopper.h"

namespace spanwise::cuda {

namespace {

int64_t padded_elems(const AttentionShape& s) {
  return s.batch * s.heads * ceil_div(s.num_queries, kQueryPad) * kQueryPad;
}

}  // namespace

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

int64_t softmax_attention_bwd_bytes(const AttentionShape& s) {
  int64_t elems = statistics_shape(s).numel();
  if (has_one_kernel(s) && one_kernel_is_quicker(s, kHopperProcessors))
    elems += dq_sums_shape(s).numel() + turns_shape(s).numel();
  return elems * int64_t(sizeof(float));
}

}  // namespace spanwise::cuda
