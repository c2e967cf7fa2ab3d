#include "launcher/divergence.h"

#include <initializer_list>

#include "core/check.h"
#include "parallel/finite_values.h"

namespace spanwise {

void fail_diverged(int64_t step, const std::string& finding, const std::string& newest_checkpoint) {
  const std::string kept = newest_checkpoint.empty()
                               ? "There is no checkpoint to go on from"
                               : fmt::format("{}, whose weights are finite, is kept", newest_checkpoint);
  fail_user(
      "Step {} {}: training diverged. {}; lower optimizer.learning_rate, or raise optimizer.warmup_steps.",
      step, finding, kept);
}

void require_finite_update(int64_t step, const ParamStore& params, const ShardedAdamW& optimizer,
                           const std::string& newest_checkpoint) {
  struct Buffer {
    const char* what;
    const Tensor& flat;
  };
  for (const Buffer& buffer :
       {Buffer{"weights", params.values()}, Buffer{"mean gradients", optimizer.first_moment()},
        Buffer{"mean squared gradients", optimizer.second_moment()}}) {
    const std::string name = first_not_finite(params, buffer.flat);
    if (name.empty()) continue;
    fail_diverged(step, fmt::format("made {} that are not finite, first in {}", buffer.what, name),
                  newest_checkpoint);
  }
}

}  // namespace spanwise
