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

/// [q, k (unit length), v, log_decay, beta, initial_state], F64; undefined where the case has none.
std::vector<Tensor> operands_of(const LinearCase& c, bool delta_rule);
/// [HV] or undefined.
Tensor head_log_decay_of(const LinearCase& c, DType dtype);

/// [out, final_state] of S' = e^g S, S = S' + k (β (v − S'ᵀk))ᵀ (or S' + k vᵀ without beta), o = scale Sᵀ q.
std::vector<Tensor> token_recurrence(const LinearCase& c, const std::vector<Tensor>& operands);

/// The family under test: [out, final_state] from operands in the order of operands_of.
using LinearFamily =
    std::function<LinearStateResult(Tape&, const std::vector<Var>&, const Tensor& head_log_decay,
                                    const SequenceLayout&, const LinearStateOptions&)>;
OpFunction op_of(const LinearCase& c, const LinearFamily& family);
using LinearStepFunction = std::function<Tensor(Context&, const LinearStateStep&)>;

// Properties both families share; failures carry the case's name.
void expect_equals_recurrence(const LinearFamily& family, bool delta_rule);
void expect_gradients_equal_finite_differences(const LinearFamily& family, bool delta_rule);
void expect_fp32_within_table(const LinearFamily& family, bool delta_rule);
void expect_step_equals_chunked(const LinearFamily& family, const LinearStepFunction& step, bool delta_rule);
void expect_documents_do_not_leak(const LinearFamily& family, bool delta_rule);
void expect_causal_to_the_bit(const LinearFamily& family, bool delta_rule);
void expect_independent_of_threads(const LinearFamily& family, bool delta_rule);
void expect_reads_column_blocks(const LinearFamily& family, bool delta_rule);
void expect_finite_with_any_decay(const LinearFamily& family, bool delta_rule);

}  // namespace spanwise::testing
