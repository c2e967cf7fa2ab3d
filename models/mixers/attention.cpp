#include "models/mixers/attention.h"

#include <algorithm>
#include <cmath>

#include "core/ops/pointwise.h"
#include "core/ops/rms_norm.h"
#include "core/ops/rope.h"
#include "core/ops/softmax_attention.h"
#include "models/mixers/heads.h"

namespace spanwise {

Attention::Attention(const AttentionOptions& options, const SharedOptions& shared)
    : options_(options), norm_eps_(shared.norm_eps) {
  const AttentionOptions& o = options;
  require_sizes(o.kName,
                {{"num_heads", o.num_heads}, {"num_kv_heads", o.num_kv_heads}, {"head_dim", o.head_dim}});
  SPANWISE_CHECK(o.rope_theta > 0, "attention.rope_theta is {}, but positions need a base", o.rope_theta);
  SPANWISE_CHECK(o.num_heads % o.num_kv_heads == 0, "{} query heads are not a multiple of {} key/value heads",
                 o.num_heads, o.num_kv_heads);
  const TensorGroup& tensor = shared.tensor;
  const SplitDim heads = divide(tensor, o.num_heads, "attention.num_heads"),
                 kv_heads = divide_or_share(tensor, o.num_kv_heads, "attention.num_kv_heads");
  const SplitDim queries = heads.times(o.head_dim), keys = kv_heads.times(o.head_dim);
  const int64_t hidden = shared.hidden;
  const auto bias = o.qkv_bias ? Linear::Bias::kYes : Linear::Bias::kNo;
  q_proj_ = Linear(hidden, queries, shared.linear, bias);
  k_proj_ = Linear(hidden, keys, shared.linear, bias);
  v_proj_ = Linear(hidden, keys, shared.linear, bias);
  if (o.output_gate) g_proj_ = Linear(hidden, queries, shared.linear);
  o_proj_ = Linear(queries, hidden, shared.linear);
  if (o.qk_norm) {
    q_norm_ = NormWeight(share(tensor, o.head_dim));
    k_norm_ = NormWeight(share(tensor, o.head_dim));
  }
  options_.num_heads = heads.size();
  options_.num_kv_heads = kv_heads.size();
}

Var Attention::forward(Tape& tape, const Var& x, const LayerContext& context) const {
  Var q = split_heads(tape, q_proj_(tape, x), options_.num_heads);
  Var k = split_heads(tape, k_proj_(tape, x), options_.num_kv_heads);
  const Var v = split_heads(tape, v_proj_(tape, x), options_.num_kv_heads);
  if (options_.qk_norm) {
    q = rms_norm(tape, q, q_norm_.var(), norm_eps_);
    k = rms_norm(tape, k, k_norm_.var(), norm_eps_);
  }
  q = rope(tape, q, context.layout.positions(), options_.rope_theta, 0);
  k = rope(tape, k, context.layout.positions(), options_.rope_theta, 0);
  const double scale = 1.0 / std::sqrt(double(options_.head_dim));
  context.check();
  Var o;
  if (context.state) {
    o = attend_cached(tape, q, k, v, *context.state);
  } else if (context.sequence) {
    o = context.sequence->attention(tape, q, k, v, options_.window, scale);
  } else {
    o = softmax_attention(tape, q, k, v, causal_key_ranges(context.layout, options_.window), scale);
  }
  o = merge_heads(tape, o);
  if (options_.output_gate) o = multiply(tape, o, activation(tape, g_proj_(tape, x), Activation::kSigmoid));
  return o_proj_(tape, o);
}

namespace {

// Appends the rows of `fresh` [1, T, HKV, d] to a cache whose first `length` rows are valid, doubling it when
// full.
void append(Context& ctx, Tensor& cache, int64_t length, const Tensor& fresh) {
  const int64_t added = fresh.dim(1), width = fresh.dim(2) * fresh.dim(3);
  if (!cache.defined() || cache.dim(0) < length + added) {
    Tensor grown = Tensor::empty(ctx, {std::max<int64_t>(2 * (length + added), 64), width}, fresh.dtype());
    if (length > 0) grown.row_range(0, length).copy_from(cache.row_range(0, length));
    cache = grown;
  }
  cache.row_range(length, length + added).copy_from(fresh.reshape({added, width}));
}

}  // namespace

Var Attention::attend_cached(Tape& tape, const Var& q, const Var& k, const Var& v, MixerState& state) const {
  SPANWISE_CHECK(q.dim(0) == 1, "generation with softmax attention takes one sequence, got {}", q.dim(0));
  Context& ctx = tape.context();
  append(ctx, state.keys, state.length, k.value());
  append(ctx, state.values, state.length, v.value());
  const int64_t past = state.length, total = past + q.dim(1);
  const auto rows = [&](const Tensor& cache) {
    return Var(cache.row_range(0, total).reshape({1, total, options_.num_kv_heads, options_.head_dim}));
  };
  KeyRanges ranges;
  for (int64_t i = past; i < total; ++i) {
    ranges.begin.push_back(options_.window > 0 ? std::max<int64_t>(0, i + 1 - options_.window) : 0);
    ranges.end.push_back(i + 1);
  }
  state.length = total;
  return softmax_attention(tape, q, rows(state.keys), rows(state.values), ranges,
                           1.0 / std::sqrt(double(options_.head_dim)));
}

void Attention::visit(const std::string& prefix, const ParamVisitor& visitor) {
  q_proj_.visit(prefix + "q_proj.", visitor);
  k_proj_.visit(prefix + "k_proj.", visitor);
  v_proj_.visit(prefix + "v_proj.", visitor);
  q_norm_.visit(prefix + "q_norm.", visitor);
  k_norm_.visit(prefix + "k_norm.", visitor);
  g_proj_.visit(prefix + "g_proj.", visitor);
  o_proj_.visit(prefix + "o_proj.", visitor);
}

}  // namespace spanwise
