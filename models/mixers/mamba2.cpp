#include "models/mixers/mamba2.h"

#include <algorithm>

#include "core/ops/gated_rms_norm.h"
#include "core/ops/gates.h"
#include "core/ops/views.h"

namespace spanwise {

Mamba2::Mamba2(const Mamba2Options& o, const SharedOptions& shared)
    : num_groups_(o.num_groups),
      norm_eps_(shared.norm_eps),
      tensor_(shared.tensor),
      family_(family_options(shared, o.kName, 1.0, o.chunk)),
      inner_split_(0) {
  require_sizes(o.kName, {{"num_heads", o.num_heads},
                          {"num_groups", o.num_groups},
                          {"state_size", o.state_size},
                          {"head_dim", o.head_dim},
                          {"conv_size", o.conv_size}});
  const SplitDim heads = divide(shared.tensor, o.num_heads, "mamba2.num_heads");
  const SplitDim groups = divide_or_share(shared.tensor, o.num_groups, "mamba2.num_groups");
  const SplitDim inner = heads.times(o.head_dim), group_columns = groups.times(o.state_size);
  heads_ = heads.size();
  groups_ = groups.size();
  inner_ = inner.size();
  group_columns_ = group_columns.size();
  in_proj_ =
      Linear(shared.hidden, concatenate({inner, inner, group_columns, group_columns, heads}), shared.linear);
  conv_ =
      ShortConv(concatenate({inner, group_columns, group_columns}), o.conv_size, shared.linear.init_stddev,
                Activation::kSiLU, o.conv_bias ? Linear::Bias::kYes : Linear::Bias::kNo);
  A_log_ = split_param({0}, 0, heads, init::log_uniform_range(1, 16), false);
  D_ = split_param({0}, 0, heads, init::constant(1), false);
  dt_bias_ = split_param({0}, 0, heads, init::dt_bias(), false);
  norm_ = NormWeight(inner);
  inner_split_ = inner;
  norm_groups_ = std::max<int64_t>(1, inner_ * o.num_groups / inner.whole);
  out_proj_ = Linear(inner, shared.hidden, shared.linear);
}

Var Mamba2::forward(Tape& tape, const Var& u, const LayerContext& context) const {
  const std::vector<Var> zxbcdt =
      split_columns(tape, in_proj_(tape, u), {inner_, inner_ + 2 * group_columns_, heads_});
  if (context.state) context.state->conv.resize(1);
  const Var xbc = conv_(tape, zxbcdt[1], context, context.state ? &context.state->conv[0] : nullptr);
  const std::vector<Var> parts = split_columns(tape, xbc, {inner_, group_columns_, group_columns_});
  const Var x = split_heads(tape, parts[0], heads_);
  const Mamba2Gates gates = mamba2_gates(tape, x, zxbcdt[2], A_log_, dt_bias_);
  Var y = run_family(tape, kScalarDecay,
                     {.q = split_heads(tape, parts[2], groups_),
                      .k = split_heads(tape, parts[1], groups_),
                      .v = gates.v,
                      .log_decay = gates.g},
                     context, family_);
  // Each group's heads are normalised together.
  const DimPart norm_part =
      grouped_dim_part(tape.context(), tensor_, inner_split_, num_groups_, "norm over heads");
  const Shape merged = zxbcdt[0].shape(), grouped{u.dim(0), u.dim(1), norm_groups_, inner_ / norm_groups_};
  y = reshape(tape, head_skip(tape, y, x, D_), grouped);
  y = gated_rms_norm(tape, y, reshape(tape, zxbcdt[0], grouped), norm_.var(), norm_eps_,
                     {.order = GateOrder::kGateThenNorm, .part = norm_part});
  return out_proj_(tape, reshape(tape, y, merged));
}

void Mamba2::visit(const std::string& prefix, const ParamVisitor& visitor) {
  in_proj_.visit(prefix + "in_proj.", visitor);
  conv_.visit(prefix + "conv1d.", visitor);
  visitor(prefix + "A_log", A_log_);
  visitor(prefix + "D", D_);
  visitor(prefix + "dt_bias", dt_bias_);
  norm_.visit(prefix + "norm.", visitor);
  out_proj_.visit(prefix + "out_proj.", visitor);
}

}  // namespace spanwise
