#pragma once
// What the tests of the linear-attention families share: a table of cases, their operands, and the token
// recurrence they must equal, written apart from the kernels.

#include "core/ops/linear_state.h"
#include "tests/testing/op_testing.h"

namespace spanwise::testing {

enum class Gate { kNone, kPerHead, kPerToken };

struct LinearCase {
  const char* name;
  int64_t B = 1, T = 35, H = 1, HV = 1, K = 6, V = 6;
  int64_t chunk = 16;
  std::vector<int64_t> starts = {};
  Gate gate = Gate::kPerToken;
  double gate_scale = 0.3;   ///< log decays are −gate_scale·|normal|
  int64_t reset_period = 0;  ///< > 0: every that many tokens the log decay is −1e4
  bool initial = true;
  double max_beta = 1.0;  ///< delta rule: beta in (0, max_beta)

  SequenceLayout layout() const {
    return starts.empty() ? SequenceLayout(B, T) : SequenceLayout(B, T, starts);
  }
  double scale() const { return 1.0 / std::sqrt(double(K)); }
};

/// Shapes every family must handle.
std::vector<LinearCase> linear_cases();

/// [q, k (unit length), v, log_decay, beta, initial_state], F64; undefined where the case has none, beta
/// where the family takes none.
std::vector<Tensor> operands_of(const LinearCase& c, const LinearFamily& family);
/// [HV] or undefined.
Tensor head_log_decay_of(const LinearCase& c, DType dtype);

/// [out, final_state] of S' = e^g S, S = S' + k (β (v − S'ᵀk))ᵀ (or S' + k vᵀ without beta), o = scale Sᵀ q.
std::vector<Tensor> token_recurrence(const LinearCase& c, const std::vector<Tensor>& operands);

/// q, k, v, log_decay and what there is of beta and initial_state, as operands_of orders them.
LinearOperands<Var> operand_list(const std::vector<Var>& x);

/// [out, final_state] from operands in the order of operands_of. To a family without a decay per head the
/// cases with one give it per token, as a constant.
OpFunction op_of(const LinearCase& c, const LinearFamily& family);

// Properties all families share; failures carry the case's name.
void expect_equals_recurrence(const LinearFamily& family);
void expect_gradients_equal_finite_differences(const LinearFamily& family);
void expect_fp32_within_table(const LinearFamily& family);
void expect_step_equals_chunked(const LinearFamily& family);
void expect_documents_do_not_leak(const LinearFamily& family);
void expect_causal_to_the_bit(const LinearFamily& family);
void expect_independent_of_threads(const LinearFamily& family);
void expect_reads_column_blocks(const LinearFamily& family);
void expect_finite_with_any_decay(const LinearFamily& family);
void expect_refuses_other_operands(const LinearFamily& family);

}  // namespace spanwise::testing
