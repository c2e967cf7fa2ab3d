#include "launcher/block_sizes.h"

#include <algorithm>

#include "core/ops/gated_delta.h"
#include "core/ops/linear_kernels.h"
#include "core/ops/scalar_decay.h"
#include "core/ops/short_conv.h"
#include "core/ops/softmax_attention.h"
#include "launcher/exchange_sizes.h"

namespace spanwise {

int BlockSizes::enter(SizeTape& tape, int x) const {
  if (!divided()) return x;
  if (!tensor_stream_.sharded()) return tape.add({.inputs = {x}, .view_of = x, .gradient = all_rows()});
  return tape.add({.value = all_rows(), .inputs = {x}, .backward = all_rows(), .gradient = all_rows()});
}

/// The same inside a block, where a recomputation finds the gathered rows still there.
int BlockSizes::enter_layer(SizeTape& tape, int x) const {
  if (!divided() || !tensor_stream_.sharded()) return enter(tape, x);
  return tape.add({.value = all_rows(),
                   .inputs = {x},
                   .value_received = true,
                   .backward = all_rows(),
                   .gradient = all_rows()});
}

int BlockSizes::linear(SizeTape& tape, int64_t elems, int x, bool recompute) const {
  SizedOp op{.value = elems, .inputs = {x}, .reads = {x}};
  if (recompute) op.recompute = op.inputs;
  return tape.add(std::move(op));
}

/// An op whose result is recomputed from its inputs, which its backward reads as well.
int BlockSizes::cheap(SizeTape& tape, int64_t elems, std::vector<int> inputs, int64_t saved) const {
  return tape.add({.value = elems, .inputs = inputs, .reads = inputs, .recompute = inputs, .saved = saved});
}

int BlockSizes::norm(SizeTape& tape, int x) const {
  return cheap(tape, stream(), {x}, precise(stream_tokens()));
}

int BlockSizes::sum(SizeTape& tape, const SizedStream& in) const {
  return in.delta < 0 ? in.residual
                      : tape.add({.value = stream(), .inputs = {in.residual}, .beside = {in.delta}});
}

SizedStream BlockSizes::add(SizeTape& tape, MixerKind kind, const SizedStream& in, int64_t layer) const {
  const int before = sum(tape, in);
  const int mixed = add_mixer(tape, enter_layer(tape, norm(tape, before)), kind);
  const int between = sum(tape, {mixed, before});
  const int y = enter_layer(tape, norm(tape, between));
  const int64_t inner =
      n_ * divide_unevenly(model_.mixer.tensor, model_.intermediate, "model.intermediate_size").size();
  const bool recompute = layer < model_.recompute_mlp_layers;
  const int gate = linear(tape, inner, y, recompute), up = linear(tape, inner, y, recompute);
  return {output(tape, cheap(tape, inner, {gate, up})), between};
}

int64_t BlockSizes::heads(int64_t all) const {
  return divide_or_share(model_.mixer.tensor, all, "heads").size();
}

/// On a GPU rotations are computed from positions, which all layers share.
int64_t BlockSizes::rope_table(int64_t width) const {
  return compute_.device == Device::kCUDA ? 0 : local_.num_positions * width;
}

/// A projection back into the stream, and tensor ranks' sum.
int BlockSizes::output(SizeTape& tape, int x) const {
  const int64_t gradient = tensor_stream_.sharded() ? all_rows() : 0;
  const int y = tape.add({.value = all_rows(), .inputs = {x}, .reads = {x}, .gradient = gradient});
  if (!divided()) return y;
  return tape.add({.value = stream(), .inputs = {y}, .value_received = true, .gradient = 0});
}

/// A short convolution, with the tokens before the rows of a span.
int BlockSizes::convolve(SizeTape& tape, int x, int64_t elems) const {
  const int64_t edge = elems / n_ * local_.rows * (model_.mixer.linear.conv_size - 1);
  std::vector<int> inputs = {x};
  if (local_.spans) inputs.push_back(tape.add({.inputs = {x}, .received = edge, .gradient = edge}));
  return cheap(tape, elems, inputs, edge);
}

int BlockSizes::attend(SizeTape& tape, int q, int k, int v) const {
  AttentionOptions o = model_.mixer.attention;
  o.num_heads = heads(o.num_heads);
  o.num_kv_heads = heads(o.num_kv_heads);
  const AttentionShape shape{.batch = local_.rows,
                             .num_queries = local_.row_tokens,
                             .num_keys = local_.row_tokens,
                             .heads = o.num_heads,
                             .kv_heads = o.num_kv_heads,
                             .head_dim = o.head_dim,
                             .dtype = compute_.dtype,
                             .staggered = true};
  SizedOp op{.value = n_ * o.num_heads * o.head_dim,
             .reads = {q, k, v},
             .saved = precise(n_ * o.num_heads),
             .backward = compute_.elems_of(softmax_attention_bwd_bytes(compute_.device, shape))};
  if (local_.spans)
    op = attention_over_ranks(local_.spans->exchanges.attention, o, local_.spans->plan, compute_, q);
  op.inputs = {q, k, v};
  op.reads_result = true;
  return tape.add(std::move(op));
}

int BlockSizes::add_attention(SizeTape& tape, int x) const {
  const AttentionOptions& o = model_.mixer.attention;
  const int64_t H = heads(o.num_heads), HKV = heads(o.num_kv_heads);
  const auto project = [&](int64_t count) { return linear(tape, n_ * count * o.head_dim, x); };
  int q = project(H), k = project(HKV);
  const int v = project(HKV);
  if (o.qk_norm) {
    q = cheap(tape, n_ * H * o.head_dim, {q}, precise(n_ * H));
    k = cheap(tape, n_ * HKV * o.head_dim, {k}, precise(n_ * HKV));
  }
  const auto rotate = [&](int& to, int64_t count) {  // saved: the table of rotations
    SizedOp op{.value = n_ * count * o.head_dim, .inputs = {to}, .saved = rope_table(o.head_dim)};
    if (o.qk_norm) op.recompute = op.inputs;
    to = tape.add(std::move(op));
  };
  rotate(q, H);
  rotate(k, HKV);
  int out = attend(tape, q, k, v);
  if (o.output_gate) {
    const int gate = cheap(tape, n_ * H * o.head_dim, {project(H)});
    out = cheap(tape, n_ * H * o.head_dim, {out, gate});
  }
  return output(tape, out);
}

int BlockSizes::add_mixer(SizeTape& tape, int x, MixerKind kind) const {
  switch (kind) {
    case MixerKind::kAttention:
      return add_attention(tape, x);
    case MixerKind::kLinearAttention:
      return add_linear_attention(tape, x);
    case MixerKind::kLightning:
      return add_lightning(tape, x);
    case MixerKind::kRetention:
      return add_retention(tape, x);
    case MixerKind::kMamba2:
      return add_mamba2(tape, x);
    case MixerKind::kDeltaNet:
    case MixerKind::kGatedDeltaNet:
      return add_delta(tape, x, kind);
  }
  SPANWISE_FAIL("no sizes of mixer kind {}", int(kind));
}

BlockSizes::Qkv BlockSizes::project_qkv(SizeTape& tape, int x) const {
  return {linear(tape, keys(), x), linear(tape, keys(), x), linear(tape, values(), x)};
}

LinearStateBytes BlockSizes::state_bytes(MixerKind kind) const {
  const FlatLinear& o = model_.mixer.linear;
  const LinearStateShape shape{
      .rows = local_.rows,
      .length = local_.row_tokens,
      .key_heads = key_heads(),
      .value_heads = value_heads(),
      .key_dim = o.key_dim,
      .value_dim = o.value_dim,
      .dtype = compute_.dtype,
      .token_decay = kind == MixerKind::kGatedDeltaNet || kind == MixerKind::kMamba2};
  const ChunkList chunks(SequenceLayout(shape.rows, shape.length), o.chunk);
  const bool delta = kind == MixerKind::kDeltaNet || kind == MixerKind::kGatedDeltaNet;
  return (delta ? gated_delta_bytes : scalar_decay_bytes)(compute_.device, shape, chunks);
}

/// The recurrence. Its last states go after the forward; with an exchange, backward has the gradients of
/// those that come in.
int BlockSizes::add_states(SizeTape& tape, MixerKind kind, std::vector<int> inputs) const {
  const SpanShape shape = span_shape(model_.mixer, kind, local_.rows, accumulation_dtype(compute_.dtype));
  const int64_t states = precise(shape.rows * shape.state_elems());
  const LinearStateBytes bytes = state_bytes(kind);
  const auto elems = [&](int64_t b) { return compute_.elems_of(b); };
  SizedOp op{.value = values(),
             .inputs = inputs,
             .reads = inputs,
             .saved = elems(bytes.saved),
             .forward = states + elems(bytes.forward),
             .backward = elems(bytes.backward)};
  if (model_.mixer.recompute) {
    op.recompute = inputs;
    op.recompute_saved = true;
  }
  if (local_.spans) {
    const StateExchangeSizes e =
        state_exchange_sizes(local_.spans->exchanges, shape, local_.spans->plan, compute_);
    op.received = e.received;
    op.forward = states + elems(bytes.forward) + e.forward - e.received;
    op.backward = states + std::max({e.travelling + elems(bytes.local_bwd), e.finishing,
                                     e.finished + elems(bytes.fold_bwd)});
  }
  return tape.add(std::move(op));
}

/// Norm with `num_norms` sums a token, its gate, and projection.
int BlockSizes::normed_output(SizeTape& tape, int y, int x, int64_t num_norms) const {
  std::vector<int> inputs = {y};
  if (model_.mixer.linear.output_gate) inputs.push_back(linear(tape, values(), x));
  return output(tape, cheap(tape, values(), inputs, precise(n_ * num_norms)));
}

int BlockSizes::add_linear_attention(SizeTape& tape, int x) const {
  const FeatureMap map = model_.mixer.linear.feature_map;
  Qkv h = project_qkv(tape, x);
  const auto apply = [&](int& to) {
    if (map == FeatureMap::kIdentity) return;
    std::vector<int> inputs = {to};
    if (map == FeatureMap::kElementwiseProduct) inputs = {linear(tape, keys(), to), linear(tape, keys(), to)};
    to = cheap(tape, keys(), inputs);
  };
  apply(h.q);
  apply(h.k);
  const int y = add_states(tape, MixerKind::kLinearAttention, {h.q, h.k, h.v});
  return output(tape, cheap(tape, values(), {y}, precise(n_ * value_heads())));
}

int BlockSizes::add_lightning(SizeTape& tape, int x) const {
  Qkv h = project_qkv(tape, x);
  h = {cheap(tape, keys(), {h.q}), cheap(tape, keys(), {h.k}), cheap(tape, values(), {h.v})};
  return normed_output(tape, add_states(tape, MixerKind::kLightning, {h.q, h.k, h.v}), x, 1);
}

int BlockSizes::add_retention(SizeTape& tape, int x) const {
  Qkv h = project_qkv(tape, x);
  const int64_t table = rope_table(model_.mixer.linear.key_dim);
  h.q = tape.add({.value = keys(), .inputs = {h.q}, .saved = table});
  h.k = tape.add({.value = keys(), .inputs = {h.k}, .saved = table});
  return normed_output(tape, add_states(tape, MixerKind::kRetention, {h.q, h.k, h.v}), x, value_heads());
}

int BlockSizes::add_mamba2(SizeTape& tape, int u) const {
  const int64_t scalars = n_ * value_heads(), channels = values() + 2 * keys();
  const auto view = [&](int64_t size, int of, bool joins = false) {
    return tape.add(
        {.inputs = joins ? std::vector<int>{of} : std::vector<int>{}, .view_of = of, .gradient = size});
  };
  // Blocks of columns are views, whose gradients the last one's entry joins.
  const int all = linear(tape, values() + channels + scalars, u);
  const int z = view(values(), all), columns = view(channels, all), dt = view(scalars, all, true);
  const int conv = convolve(tape, columns, channels);
  const int x = view(values(), conv), k = view(keys(), conv), q = view(keys(), conv, true);
  const int g = tape.add({.value = precise(scalars), .reads_result = true}),
            v = cheap(tape, values(), {x, dt}, precise(scalars));
  const int y = add_states(tape, MixerKind::kMamba2, {q, k, v, g});
  // The skip hands its gradient on to y, with which it is counted; the norm's backward makes it.
  const int skip = tape.add({.value = values(), .inputs = {y, x}, .reads = {x}, .gradient = 0});
  const int64_t sums = precise(n_ * std::min(key_heads(), value_heads()));
  SizedOp norm{
      .value = values(), .inputs = {skip, z}, .reads = {skip, z}, .saved = sums, .backward = values()};
  // Groups over several ranks need their sums: such a norm is kept.
  if (key_heads() * model_.mixer.tensor.size() <= model_.mixer.linear.num_heads) norm.recompute = norm.inputs;
  return output(tape, tape.add(std::move(norm)));
}

int BlockSizes::add_delta(SizeTape& tape, int x, MixerKind kind) const {
  const FlatLinear& o = model_.mixer.linear;
  const auto project = [&](int64_t elems) {
    const int y = linear(tape, elems, x);
    return o.short_conv ? convolve(tape, y, elems) : cheap(tape, elems, {y});
  };
  Qkv h{project(keys()), project(keys()), project(values())};
  const bool normed_by_conv =
      compute_.device == Device::kCUDA && o.short_conv && short_conv_kernel_takes_heads(o.key_dim);
  const auto normed = [&](int of) {
    if (normed_by_conv) return of;
    return tape.add({.value = keys(),
                     .inputs = {of},
                     .reads_result = true,
                     .recompute = std::vector<int>{of},
                     .saved = precise(n_ * key_heads())});
  };
  h.q = normed(h.q);
  h.k = normed(h.k);
  const auto gate_of_heads = [&](bool reads) {
    const int y = linear(tape, n_ * value_heads(), x);
    return tape.add({.value = precise(n_ * value_heads()),
                     .inputs = {y},
                     .reads = reads ? std::vector<int>{y} : std::vector<int>{},
                     .reads_result = true});
  };
  std::vector<int> inputs = {h.q, h.k, h.v, gate_of_heads(false)};
  if (kind == MixerKind::kGatedDeltaNet) inputs.push_back(gate_of_heads(true));
  return normed_output(tape, add_states(tape, kind, std::move(inputs)), x, value_heads());
}

}  // namespace spanwise
