#include "models/mixers/heads.h"

#include "core/ops/views.h"
#include "models/shared_options.h"

namespace spanwise {

Var split_heads(Tape& tape, const Var& x, int64_t num_heads) {
  return reshape(tape, x, {x.dim(0), x.dim(1), num_heads, x.dim(-1) / num_heads});
}

Var merge_heads(Tape& tape, const Var& x) {
  return reshape(tape, x, {x.dim(0), x.dim(1), x.dim(2) * x.dim(3)});
}

HeadSplit split_over_ranks(const TensorGroup& tensor, const LinearHeads& heads, std::string_view mixer) {
  require_sizes(mixer, {{"num_heads", heads.num_heads},
                        {"num_value_heads", heads.num_value_heads},
                        {"key_dim", heads.key_dim},
                        {"value_dim", heads.value_dim}});
  return {divide_or_share(tensor, heads.num_heads, fmt::format("{}.num_heads", mixer)),
          divide(tensor, heads.num_value_heads, fmt::format("{}.num_value_heads", mixer)), heads.key_dim,
          heads.value_dim};
}

}  // namespace spanwise
