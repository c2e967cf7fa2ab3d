#include "core/ops/span.h"

namespace spanwise {

Shape transition_shape(TransitionKind kind, Shape heads, int64_t key_dim) {
  if (kind == TransitionKind::kIdentity) return {};
  if (kind != TransitionKind::kScalar) heads.append(key_dim);
  if (kind == TransitionKind::kDense) heads.append(key_dim);
  return heads;
}

int64_t transition_elems(TransitionKind kind, int64_t key_dim) {
  switch (kind) {
    case TransitionKind::kIdentity:
      return 0;
    case TransitionKind::kScalar:
      return 1;
    case TransitionKind::kDiagonal:
      return key_dim;
    case TransitionKind::kDense:
      return key_dim * key_dim;
  }
  SPANWISE_FAIL("{} is no kind of transition", int(kind));
}

}  // namespace spanwise
