#include "core/ops/span_fold.h"

#include <cmath>

#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

constexpr int64_t kHeads = 3, kKeys = 5, kColumns = 7;
constexpr TransitionKind kKinds[] = {TransitionKind::kIdentity, TransitionKind::kScalar,
                                     TransitionKind::kDiagonal, TransitionKind::kDense};

SpanTransition transition_of(TransitionKind kind, const char* name) {
  if (kind == TransitionKind::kIdentity) return {};
  return {kind, random_tensor(transition_shape(kind, {kHeads}, kKeys), DType::kF64, name, 0.4)};
}

using Matrix = std::vector<double>;

/// [HV, K, K], by the definitions in core/ops/span.h.
Matrix matrix_of(const SpanTransition& m) {
  const Matrix values = m.values.defined() ? to_doubles(m.values) : Matrix();
  if (m.kind == TransitionKind::kDense) return values;
  Matrix out(kHeads * kKeys * kKeys, 0.0);
  for (int64_t h = 0; h < kHeads; ++h) {
    for (int64_t i = 0; i < kKeys; ++i) {
      double g = 0;
      if (m.kind == TransitionKind::kScalar) g = values[h];
      if (m.kind == TransitionKind::kDiagonal) g = values[h * kKeys + i];
      out[(h * kKeys + i) * kKeys + i] = std::exp(g);
    }
  }
  return out;
}

/// M x + added per head, or Mᵀ x + added; x and the result [HV, K, columns].
Tensor product(const Matrix& m, HeadOperand op, const Tensor& x, const Tensor& added) {
  const int64_t columns = x.dim(2);
  const Tensor out = Tensor::zeros(test_context(), x.shape(), DType::kF64);
  if (added.defined()) out.copy_from(added);
  for (int64_t h = 0; h < kHeads; ++h) {
    for (int64_t i = 0; i < kKeys; ++i) {
      for (int64_t j = 0; j < kKeys; ++j) {
        const double factor =
            m[h * kKeys * kKeys + (op == HeadOperand::kPlain ? i * kKeys + j : j * kKeys + i)];
        for (int64_t c = 0; c < columns; ++c)
          out.data<double>()[(h * kKeys + i) * columns + c] +=
              factor * x.data<double>()[(h * kKeys + j) * columns + c];
      }
    }
  }
  return out;
}

TEST(SpanFold, EveryKindActsAsItsMatrix) {
  const Tensor state = random_tensor({kHeads, kKeys, kColumns}, DType::kF64, "state"),
               added = random_tensor({kHeads, kKeys, kColumns}, DType::kF64, "added");
  for (const TransitionKind kind : kKinds) {
    SCOPED_TRACE(int(kind));
    const SpanTransition m = transition_of(kind, "m");
    EXPECT_TRUE(near(apply_transition(test_context(), m, state, added),
                     product(matrix_of(m), HeadOperand::kPlain, state, added), 1e-14));
    EXPECT_TRUE(near(apply_transition_transposed(test_context(), m, state, added),
                     product(matrix_of(m), HeadOperand::kTransposed, state, added), 1e-14));
  }
}

TEST(SpanFold, ComposingKeepsTheKindAndMultipliesMatrices) {
  for (const TransitionKind kind : kKinds) {
    SCOPED_TRACE(int(kind));
    const SpanTransition later = transition_of(kind, "later"), earlier = transition_of(kind, "earlier");
    const SpanTransition both = compose_transitions(test_context(), later, earlier);
    EXPECT_EQ(both.kind, kind);
    const Tensor first = Tensor::from(test_context(), {kHeads, kKeys, kKeys}, matrix_of(earlier));
    EXPECT_TRUE(near(Tensor::from(test_context(), {kHeads, kKeys, kKeys}, matrix_of(both)),
                     product(matrix_of(later), HeadOperand::kPlain, first, {}), 1e-14));
  }
}

TEST(SpanFold, AWrongShapeOrTwoKindsAreRefused) {
  const Tensor state = Tensor::zeros(test_context(), {kHeads, kKeys, kColumns}, DType::kF64);
  SpanTransition m = transition_of(TransitionKind::kDiagonal, "m");
  m.kind = TransitionKind::kScalar;
  EXPECT_THROW(apply_transition(test_context(), m, state, state), Error);
  EXPECT_THROW(compose_transitions(test_context(), transition_of(TransitionKind::kDense, "m"),
                                   transition_of(TransitionKind::kScalar, "n")),
               Error);
}

}  // namespace
}  // namespace spanwise::testing
