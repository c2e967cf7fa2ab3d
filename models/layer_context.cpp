#include "models/layer_context.h"

namespace spanwise {

size_t MixerState::bytes() const {
  size_t total = 0;
  for (const Tensor& t : {recurrent, keys, values}) total += t.defined() ? t.bytes() : 0;
  for (const Tensor& t : conv) total += t.defined() ? t.bytes() : 0;
  return total;
}

}  // namespace spanwise
