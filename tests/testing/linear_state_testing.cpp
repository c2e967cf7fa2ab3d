#include "tests/testing/linear_state_testing.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace spanwise::testing {

namespace {

bool takes(const LinearFamily& family, LinearOperand operand) {
  return family.needs.has(operand) || family.takes.has(operand);
}

}  // namespace

std::vector<LinearCase> linear_cases() {
  return {
      {.name = "chunks of 16, T = 70", .T = 70},
      {.name = "chunks of 64, T = 70", .T = 70, .chunk = 64},
      {.name = "chunks of 48: blocks of rows and columns", .T = 100, .chunk = 48},
      {.name = "one token", .T = 1},
      {.name = "one token a chunk", .T = 5, .chunk = 1},
      {.name = "rows, K < V, shared key heads", .B = 2, .T = 37, .H = 2, .HV = 4, .K = 5, .V = 9},
      {.name = "rows, K > V, one key head", .B = 2, .T = 37, .H = 1, .HV = 3, .K = 9, .V = 4},
      {.name = "no decay", .gate = Gate::kNone},
      {.name = "constant decay", .T = 40, .HV = 2, .gate = Gate::kPerHead},
      {.name = "no initial state", .initial = false},
      {.name = "slow decay", .gate_scale = 1e-4},
      {.name = "fast decay", .gate_scale = 8},
      {.name = "zero decay", .T = 40, .gate_scale = 0},
      {.name = "resets by decay", .gate_scale = 0.05, .reset_period = 7},
      {.name = "documents, first rows continue",
       .B = 3,
       .T = 40,
       .HV = 2,
       .starts = {1, 2, 18, 35, 39, 40, 57, 100}},
      {.name = "documents of one token", .T = 6, .starts = {0, 1, 2, 3, 4, 5}, .initial = false},
      {.name = "documents, constant decay", .T = 60, .starts = {20, 53}, .gate = Gate::kPerHead},
      {.name = "documents, state unused", .T = 30, .starts = {0, 20}},
      {.name = "beta up to 2", .gate_scale = 0.02, .max_beta = 2.0},
  };
}

Tensor head_log_decay_of(const LinearCase& c, DType dtype) {
  if (c.gate != Gate::kPerHead) return Tensor();
  Tensor g = Tensor::empty(test_context(), {c.HV}, DType::kF64);
  for (int64_t j = 0; j < c.HV; ++j) g.data<double>()[j] = -c.gate_scale * double(j + 1);
  return cast(g, dtype);
}

std::vector<Tensor> operands_of(const LinearCase& c, const LinearFamily& family) {
  Tensor q = random_tensor({c.B, c.T, c.H, c.K}, DType::kF64, "q"),
         k = random_tensor({c.B, c.T, c.H, c.K}, DType::kF64, "k"),
         v = random_tensor({c.B, c.T, c.HV, c.V}, DType::kF64, "v"), log_decay, beta, initial;
  for (int64_t r = 0; r < c.B * c.T * c.H; ++r) {
    double* row = k.data<double>() + r * c.K;
    double square = 0;
    for (int64_t i = 0; i < c.K; ++i) square += row[i] * row[i];
    for (int64_t i = 0; i < c.K; ++i) row[i] /= std::sqrt(square);
  }
  if (c.gate == Gate::kPerToken) {
    log_decay = random_tensor({c.B, c.T, c.HV}, DType::kF64, "g", c.gate_scale);
    for (int64_t i = 0; i < log_decay.numel(); ++i) {
      double& g = log_decay.data<double>()[i];
      g = c.reset_period && i % c.reset_period == 3 ? -1e4 : -std::abs(g);
    }
  }
  if (takes(family, LinearOperand::kBeta)) {
    beta = random_tensor({c.B, c.T, c.HV}, DType::kF64, "beta", 2.0);
    for (int64_t i = 0; i < beta.numel(); ++i) {
      double& b = beta.data<double>()[i];
      b = c.max_beta / (1 + std::exp(-b));
    }
  }
  if (c.initial) initial = random_tensor({c.B, c.HV, c.K, c.V}, DType::kF64, "state");
  return {q, k, v, log_decay, beta, initial};
}

std::vector<Tensor> token_recurrence(const LinearCase& c, const std::vector<Tensor>& x) {
  std::vector<std::vector<double>> value;
  for (const Tensor& t : x) value.push_back(t.defined() ? to_doubles(t) : std::vector<double>());
  const auto &q = value[0], &k = value[1], &v = value[2], &g = value[3], &beta = value[4],
             &initial = value[5];
  const Tensor head_g = head_log_decay_of(c, DType::kF64);
  const Tensor out = Tensor::zeros(test_context(), {c.B, c.T, c.HV, c.V}, DType::kF64),
               final_state = Tensor::zeros(test_context(), {c.B, c.HV, c.K, c.V}, DType::kF64);
  for (int64_t b = 0; b < c.B; ++b) {
    for (int64_t j = 0; j < c.HV; ++j) {
      double* S = final_state.data<double>() + (b * c.HV + j) * c.K * c.V;
      for (int64_t i = 0; i < c.K * c.V && c.initial; ++i) S[i] = initial[(b * c.HV + j) * c.K * c.V + i];
      for (int64_t t = 0; t < c.T; ++t) {
        const int64_t token = b * c.T + t;
        const double* qt = &q[(token * c.H + j * c.H / c.HV) * c.K];
        const double* kt = &k[(token * c.H + j * c.H / c.HV) * c.K];
        const double* vt = &v[(token * c.HV + j) * c.V];
        double log_decay = 0;
        if (!g.empty()) log_decay = g[token * c.HV + j];
        if (head_g.defined()) log_decay = head_g.data<double>()[j];
        const bool starts = std::find(c.starts.begin(), c.starts.end(), token) != c.starts.end();
        for (int64_t i = 0; i < c.K * c.V; ++i) S[i] = starts ? 0.0 : S[i] * std::exp(log_decay);
        for (int64_t m = 0; m < c.V; ++m) {
          double write = vt[m];
          if (!beta.empty()) {
            for (int64_t i = 0; i < c.K; ++i) write -= S[i * c.V + m] * kt[i];
            write *= beta[token * c.HV + j];
          }
          double read = 0;
          for (int64_t i = 0; i < c.K; ++i) {
            S[i * c.V + m] += kt[i] * write;
            read += S[i * c.V + m] * qt[i];
          }
          out.data<double>()[(token * c.HV + j) * c.V + m] = c.scale() * read;
        }
      }
    }
  }
  return {out, final_state};
}

LinearOperands<Var> operand_list(const std::vector<Var>& x) {
  LinearOperands<Var> operands{.q = x[0], .k = x[1], .v = x[2], .log_decay = x[3]};
  if (x.size() > 4) operands.beta = x[4];
  if (x.size() > 5) operands.initial_state = x[5];
  return operands;
}

namespace {

/// The same decay for every token.
Tensor per_token(const LinearCase& c, const Tensor& head_log_decay) {
  const std::vector<double> heads = to_doubles(head_log_decay);
  const Tensor g = Tensor::empty(test_context(), {c.B, c.T, c.HV}, DType::kF64);
  for (int64_t i = 0; i < g.numel(); ++i) g.data<double>()[i] = heads[i % c.HV];
  return cast(g, head_log_decay.dtype());
}

}  // namespace

OpFunction op_of(const LinearCase& c, const LinearFamily& family) {
  return [c, &family](Tape& tape, const std::vector<Var>& x) {
    LinearOperands<Var> operands = operand_list(x);
    if (const Tensor g = head_log_decay_of(c, x[0].value().dtype()); g.defined()) {
      if (takes(family, LinearOperand::kHeadLogDecay)) {
        operands.head_log_decay = Var(g);
      } else {
        operands.log_decay = Var(per_token(c, g));
      }
    }
    const LinearStateResult r =
        linear_state(tape, family, operands, c.layout(), {.scale = c.scale(), .chunk = c.chunk});
    return std::vector<Var>{r.out, r.final_state};
  };
}

void expect_equals_recurrence(const LinearFamily& family) {
  for (const LinearCase& c : linear_cases()) {
    SCOPED_TRACE(c.name);
    const std::vector<Tensor> x = operands_of(c, family), expected = token_recurrence(c, x),
                              actual = evaluate(op_of(c, family), x);
    EXPECT_TRUE(near(actual[0], expected[0], kTolerance64.value));
    EXPECT_TRUE(near(actual[1], expected[1], kTolerance64.value));
  }
}

void expect_gradients_equal_finite_differences(const LinearFamily& family) {
  for (const LinearCase& c : linear_cases()) {
    SCOPED_TRACE(c.name);
    check_gradients(op_of(c, family), operands_of(c, family), {.max_elements = 10});
  }
}

void expect_fp32_within_table(const LinearFamily& family) {
  for (const LinearCase& c : linear_cases()) {
    SCOPED_TRACE(c.name);
    check_fp32(op_of(c, family), operands_of(c, family));
  }
}

namespace {

/// Token t of every row of a [B, T, ...] tensor.
Tensor token_of(const Tensor& x, int64_t t) {
  if (!x.defined()) return Tensor();
  std::vector<int64_t> dims = x.shape().to_vector();
  const int64_t B = dims[0], T = dims[1], width = x.numel() / (B * T);
  dims[1] = 1;
  const Tensor out = Tensor::empty(test_context(), Shape(dims), DType::kF64);
  for (int64_t b = 0; b < B; ++b)
    std::copy_n(x.data<double>() + (b * T + t) * width, width, out.data<double>() + b * width);
  return out;
}

/// Operands with the q, k, v (and gates) of one token of row 0 changed.
std::vector<Tensor> with_token_changed(const LinearCase& c, const std::vector<Tensor>& x, int64_t token) {
  std::vector<Tensor> changed;
  for (size_t i = 0; i < x.size(); ++i) {
    if (!x[i].defined() || i == 5) {
      changed.push_back(x[i]);
      continue;
    }
    Tensor copy = Tensor::empty(test_context(), x[i].shape(), DType::kF64);
    copy.copy_from(x[i]);
    const int64_t width = copy.numel() / (c.B * c.T);
    for (int64_t e = 0; e < width; ++e) copy.data<double>()[token * width + e] *= 1.25;
    changed.push_back(copy);
  }
  return changed;
}

Tensor tokens(const Tensor& out, int64_t begin, int64_t end) {
  return out.reshape({out.dim(0) * out.dim(1), out.dim(2) * out.dim(3)}).row_range(begin, end);
}

}  // namespace

void expect_step_equals_chunked(const LinearFamily& family) {
  for (const LinearCase& c : linear_cases()) {
    if (!c.starts.empty()) continue;
    SCOPED_TRACE(c.name);
    const std::vector<Tensor> x = operands_of(c, family), chunked = evaluate(op_of(c, family), x);
    const Tensor state = Tensor::zeros(test_context(), {c.B, c.HV, c.K, c.V}, DType::kF64);
    if (c.initial) state.copy_from(x[5]);
    Tensor decay = x[3], head_decay = head_log_decay_of(c, DType::kF64);
    if (head_decay.defined() && !takes(family, LinearOperand::kHeadLogDecay)) {
      decay = per_token(c, head_decay);
      head_decay = {};
    }
    for (int64_t t = 0; t < c.T; ++t) {
      const Tensor out = linear_state_step(test_context(), family,
                                           {.q = token_of(x[0], t),
                                            .k = token_of(x[1], t),
                                            .v = token_of(x[2], t),
                                            .log_decay = token_of(decay, t),
                                            .head_log_decay = head_decay,
                                            .beta = token_of(x[4], t),
                                            .initial_state = state},
                                           c.scale());
      ASSERT_TRUE(near(out, token_of(chunked[0], t), kTolerance64.value)) << "token " << t;
    }
    EXPECT_TRUE(near(state, chunked[1], kTolerance64.value));
  }
}

void expect_documents_do_not_leak(const LinearFamily& family) {
  const LinearCase c{.name = "", .T = 90, .HV = 2, .starts = {41}};
  const std::vector<Tensor> x = operands_of(c, family);
  const std::vector<Tensor> before = evaluate(op_of(c, family), x);
  for (const int64_t token : {0, 15, 40}) {
    const std::vector<Tensor> after = evaluate(op_of(c, family), with_token_changed(c, x, token));
    EXPECT_TRUE(bitwise_equal(tokens(before[0], 41, 90), tokens(after[0], 41, 90))) << "token " << token;
    EXPECT_TRUE(bitwise_equal(before[1], after[1])) << "token " << token;
    EXPECT_FALSE(bitwise_equal(tokens(before[0], token, 41), tokens(after[0], token, 41)));
  }
}

void expect_causal_to_the_bit(const LinearFamily& family) {
  for (const int64_t chunk : {16, 64}) {
    const LinearCase c{.name = "", .T = 90, .HV = 2, .chunk = chunk};
    const std::vector<Tensor> x = operands_of(c, family);
    const Tensor before = evaluate(op_of(c, family), x)[0];
    for (const int64_t token : {1, 15, 16, 17, 31, 32, 63, 64, 65, 89}) {
      const Tensor after = evaluate(op_of(c, family), with_token_changed(c, x, token))[0];
      EXPECT_TRUE(bitwise_equal(tokens(before, 0, token), tokens(after, 0, token))) << "token " << token;
      EXPECT_FALSE(bitwise_equal(tokens(before, token, 90), tokens(after, token, 90))) << "token " << token;
    }
  }
}

void expect_independent_of_threads(const LinearFamily& family) {
  for (const LinearCase& c :
       {LinearCase{.name = "one unit, products large enough for threaded BLAS",
       .T = 150,
       .K = 128,
       .V = 128,
       .chunk = 128},
        LinearCase{
            .name = "three value heads, documents", .B = 2, .T = 50, .HV = 3, .starts = {13, 50, 77}}}) {
    SCOPED_TRACE(c.name);
    std::vector<Tensor> low;
    for (const Tensor& t : operands_of(c, family)) low.push_back(cast(t, DType::kF32));
    std::vector<std::vector<Tensor>> results;
    for (const int num_threads : {2, 1}) {
      Context ctx({.num_threads = num_threads, .poison = true});
      Tape tape(ctx);
      std::vector<Var> leaves;
      for (const Tensor& t : low) leaves.push_back(t.defined() ? Var(t, true) : Var());
      const std::vector<Var> out = op_of(c, family)(tape, leaves);
      tape.backward(out, {random_tensor(out[0].shape(), DType::kF32, "dout"),
                          random_tensor(out[1].shape(), DType::kF32, "dfinal")});
      std::vector<Tensor> all{out[0].value(), out[1].value()};
      for (const Var& leaf : leaves) {
        if (leaf.defined()) all.push_back(leaf.grad());
      }
      results.push_back(all);
    }
    for (size_t i = 0; i < results[0].size(); ++i)
      EXPECT_TRUE(bitwise_equal(results[0][i], results[1][i])) << "result " << i;
  }
}

void expect_reads_column_blocks(const LinearFamily& family) {
  const LinearCase c{.name = "", .B = 2, .T = 40, .H = 2, .HV = 4, .K = 4, .V = 3};
  const int64_t widths[] = {c.H * c.K, c.H * c.K, c.HV * c.V, c.HV, c.HV};
  int64_t columns = 5;
  for (const int64_t w : widths) columns += w;
  const Tensor fused = random_tensor({c.B * c.T, columns}, DType::kF64, "fused", 0.1, -0.4);
  const std::vector<Tensor> plain = operands_of(c, family);
  std::vector<Tensor> blocks = plain, copies = plain;
  int64_t begin = 5;
  for (size_t i = 0; i < 5; ++i) {
    if (plain[i].defined()) {
      blocks[i] = fused.column_range(begin, begin + widths[i]).reshape(plain[i].shape());
      copies[i] = blocks[i].to_contiguous(test_context());
    }
    begin += widths[i];
  }
  const auto a = evaluate(op_of(c, family), blocks), b = evaluate(op_of(c, family), copies);
  EXPECT_TRUE(bitwise_equal(a[0], b[0]));
  EXPECT_TRUE(bitwise_equal(a[1], b[1]));
  const auto da = gradients(op_of(c, family), blocks), db = gradients(op_of(c, family), copies);
  for (size_t i = 0; i < da.size(); ++i) {
    if (!da[i].defined()) continue;
    EXPECT_TRUE(bitwise_equal(da[i], db[i])) << "operand " << i;
  }
}

void expect_finite_with_any_decay(const LinearFamily& family) {
  const LinearCase c{.name = "", .T = 70, .chunk = 64};
  for (const DType dtype : {DType::kF64, DType::kF32}) {
    for (const double g : {-0.0, -1.0, -90.0, -1e4, -1e30, -std::numeric_limits<double>::infinity()}) {
      SCOPED_TRACE(fmt::format("{} log decay {}", name_of(dtype), g));
      std::vector<Tensor> x = operands_of(c, family);
      x[3] = Tensor::empty(test_context(), x[3].shape(), DType::kF64);
      x[3].fill(g);
      for (Tensor& t : x) t = cast(t, dtype);
      std::vector<Tensor> all = evaluate(op_of(c, family), x);
      for (const Tensor& t : gradients(op_of(c, family), x)) all.push_back(t);
      for (size_t i = 0; i < all.size(); ++i) {
        if (!all[i].defined()) continue;
        for (const double value : to_doubles(all[i])) ASSERT_TRUE(std::isfinite(value)) << "result " << i;
      }
    }
  }
}

void expect_refuses_other_operands(const LinearFamily& family) {
  const LinearCase c{.name = "", .T = 20};
  const std::vector<Tensor> x = operands_of(c, family);
  LinearOperands<Tensor> all{.q = x[0], .k = x[1], .v = x[2], .log_decay = x[3], .beta = x[4]};
  all.initial_state = x[5];
  const auto run = [&](const LinearOperands<Tensor>& operands) {
    Tape tape(test_context());
    linear_state(tape, family,
                 map_operands<Var>(operands, [](const Tensor& t) { return t.defined() ? Var(t) : Var(); }),
                 c.layout(), {.scale = 1});
  };
  run(all);
  const LinearStateShape sizes{c.B, c.T, c.H, c.HV, c.K, c.V, DType::kF64, true};
  for_each_operand(
      [&](const LinearOperandRule& rule, Tensor& operand) {
        SCOPED_TRACE(rule.name);
        const Tensor given = operand, fitting = Tensor::zeros(test_context(), rule.shape(sizes), DType::kF64);
        operand = {};
        if (family.needs.has(rule.operand)) EXPECT_THROW(run(all), Error);
        operand = fitting;
        const bool second_decay = rule.operand == LinearOperand::kHeadLogDecay;
        if (!takes(family, rule.operand) || second_decay) EXPECT_THROW(run(all), Error);
        operand = fitting.reshape({1, fitting.numel()});
        EXPECT_THROW(run(all), Error);
        operand = cast(fitting, DType::kF32);
        EXPECT_THROW(run(all), Error);
        operand = given;
      },
      all);
}

}  // namespace spanwise::testing
