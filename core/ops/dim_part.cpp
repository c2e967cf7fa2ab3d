#include "core/ops/dim_part.h"

namespace spanwise {

DimPart reduced_once(Tape& tape, const DimPart& part) {
  if (!part.divided()) return part;
  DimPart once = part;
  once.sum = [&tape, &part](const Tensor& t) {
    const Tensor received = tape.once([&] {
      // A copy: `t` is the op's to overwrite, what is kept is not.
      const Tensor sums = Tensor::empty(tape.context(), t.shape(), t.dtype());
      sums.copy_from(t);
      part.sum(sums);
      return sums;
    });
    t.copy_from(received);
  };
  once.max = nullptr;
  return once;
}

}  // namespace spanwise
