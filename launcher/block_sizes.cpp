#include "launcher/block_sizes.h"

#include <algorithm>

#include "launcher/exchange_sizes.h"

namespace spanwise {

int BlockSizes::enter(SizeTape& tape, int x) const {
  if (!divided()) return x;
  if (!tensor_stream_.sharded()) return tape.add({.value = 0, .inputs = {x}, .gradient = all_rows()});
  return tape.add({.value = all_rows(), .inputs = {x}, .backward = all_rows(), .gradient = all_rows()});
}

/// The same inside a block, where a recomputation finds the gathered rows still there.
int BlockSizes::enter_layer(SizeTape& tape, int x) const {
  if (!divided() || !tensor_stream_.sharded()) return enter(tape, x);
  return tape.add({.inputs = {x}, .received = all_rows(), .backward = all_rows(), .gradient = all_rows()});
}

int BlockSizes::add(SizeTape& tape, MixerKind kind, int residual, bool first) const {
  const int before = first ? residual : tape.add({stream(), {residual}});
  const int x = enter_layer(tape, tape.add({stream(), {before}, stream_tokens()}));
  add_mixer(tape, x, kind);
  const int between = tape.add({stream(), {before}});
  const int y = enter_layer(tape, tape.add({stream(), {between}, stream_tokens()}));
  const int64_t inner =
      n_ * divide_unevenly(model_.mixer.tensor, model_.intermediate, "model.intermediate_size").size();
  const int gate = tape.add({inner, {y}}), up = tape.add({inner, {y}});
  output(tape, tape.add({inner, {gate, up}}));
  return between;
}

int64_t BlockSizes::heads(int64_t all) const {
  return divide_or_share(model_.mixer.tensor, all, "heads").size();
}

/// A projection back into the stream, and tensor ranks' sum.
void BlockSizes::output(SizeTape& tape, int x) const {
  const int64_t gradient = tensor_stream_.sharded() ? all_rows() : 0;
  const int y = tape.add({.value = all_rows(), .inputs = {x}, .gradient = gradient});
  if (divided()) tape.add({.inputs = {y}, .received = stream(), .gradient = 0});
}

/// A short convolution, with the tokens before the rows of a span.
int BlockSizes::convolve(SizeTape& tape, int x, int64_t elems) const {
  const int64_t edge = elems / n_ * local_.rows * (model_.mixer.linear.conv_size - 1);
  std::vector<int> inputs = {x};
  if (local_.spans) inputs.push_back(tape.add({.inputs = {x}, .received = edge, .gradient = edge}));
  return tape.add({.value = elems, .inputs = inputs, .saved = edge});
}

int BlockSizes::attend(SizeTape& tape, int q, int k, int v) const {
  AttentionOptions o = model_.mixer.attention;
  o.num_heads = heads(o.num_heads);
  o.num_kv_heads = heads(o.num_kv_heads);
  SizedOp op{.value = n_ * o.num_heads * o.head_dim, .saved = n_ * o.num_heads};
  if (local_.spans) op = attention_over_ranks(local_.spans->exchanges.attention, o, local_.spans->plan);
  op.inputs = {q, k, v};
  return tape.add(std::move(op));
}

void BlockSizes::add_attention(SizeTape& tape, int x) const {
  const AttentionOptions& o = model_.mixer.attention;
  const int64_t H = heads(o.num_heads), HKV = heads(o.num_kv_heads);
  const auto project = [&](int64_t count) { return tape.add({n_ * count * o.head_dim, {x}}); };
  int q = project(H), k = project(HKV);
  const int v = project(HKV);
  const auto apply = [&](int& to, int64_t count, int64_t saved) {
    to = tape.add({n_ * count * o.head_dim, {to}, saved});
  };
  if (o.qk_norm) {
    apply(q, H, n_ * H);
    apply(k, HKV, n_ * HKV);
  }
  apply(q, H, local_.num_positions * o.head_dim);  // tables of rotations
  apply(k, HKV, local_.num_positions * o.head_dim);
  int out = attend(tape, q, k, v);
  if (o.output_gate) {
    const int gate = tape.add({n_ * H * o.head_dim, {project(H)}});
    out = tape.add({n_ * H * o.head_dim, {out, gate}});
  }
  output(tape, out);
}

void BlockSizes::add_mixer(SizeTape& tape, int x, MixerKind kind) const {
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
  return {tape.add({keys(), {x}}), tape.add({keys(), {x}}), tape.add({values(), {x}})};
}

/// The states of a family's chunks. Backward sums dk over value heads, and dq, where several share a key
/// head; scalar decay's always sums the part of dk that other ranks' gradients bring.
int BlockSizes::add_states(SizeTape& tape, MixerKind kind, std::vector<int> inputs) const {
  const LinearMixerOptions& o = model_.mixer.linear;
  const int64_t chunks = (local_.row_tokens + o.chunk - 1) / o.chunk;
  // Of a row: the states before chunks but the first, and the last one.
  const SpanShape shape = span_shape(model_.mixer, kind, local_.rows, accumulation_dtype(dtype_));
  const int64_t states = shape.rows * shape.state_elems();
  const int64_t keys_of_values = n_ * value_heads() * o.key_dim,
                shared = value_heads() > key_heads() ? 2 * keys_of_values : 0;
  SizedOp op{.value = values(), .inputs = std::move(inputs), .saved = chunks * states, .backward = shared};
  if (local_.spans) {
    const StateExchangeSizes e = state_exchange_sizes(local_.spans->exchanges, shape, local_.spans->plan);
    const int64_t after = shape.transition == TransitionKind::kDense ? shared : keys_of_values;
    op.received = e.received;
    op.forward = e.forward - e.received;
    op.backward = states + std::max({e.travelling + shared, e.finishing, e.finished + after});
  }
  return tape.add(std::move(op));
}

/// Norm with `num_norms` sums a token, its gate, and projection.
void BlockSizes::normed_output(SizeTape& tape, int y, int x, int64_t num_norms) const {
  std::vector<int> inputs = {y};
  if (model_.mixer.linear.output_gate) inputs.push_back(tape.add({values(), {x}}));
  output(tape, tape.add({values(), inputs, n_ * num_norms}));
}

void BlockSizes::add_linear_attention(SizeTape& tape, int x) const {
  const FeatureMap map = model_.mixer.linear.feature_map;
  Qkv h = project_qkv(tape, x);
  const auto apply = [&](int& to) {
    if (map == FeatureMap::kIdentity) return;
    std::vector<int> inputs = {to};
    if (map == FeatureMap::kElementwiseProduct) inputs = {tape.add({keys(), {to}}), tape.add({keys(), {to}})};
    to = tape.add({keys(), inputs});
  };
  apply(h.q);
  apply(h.k);
  const int y = add_states(tape, MixerKind::kLinearAttention, {h.q, h.k, h.v});
  output(tape, tape.add({values(), {y}, n_ * value_heads()}));
}

void BlockSizes::add_lightning(SizeTape& tape, int x) const {
  Qkv h = project_qkv(tape, x);
  h = {tape.add({keys(), {h.q}}), tape.add({keys(), {h.k}}), tape.add({values(), {h.v}})};
  normed_output(tape, add_states(tape, MixerKind::kLightning, {h.q, h.k, h.v}), x, 1);
}

void BlockSizes::add_retention(SizeTape& tape, int x) const {
  Qkv h = project_qkv(tape, x);
  const int64_t table = local_.num_positions * model_.mixer.linear.key_dim;
  h.q = tape.add({keys(), {h.q}, table});
  h.k = tape.add({keys(), {h.k}, table});
  normed_output(tape, add_states(tape, MixerKind::kRetention, {h.q, h.k, h.v}), x, value_heads());
}

void BlockSizes::add_mamba2(SizeTape& tape, int u) const {
  const int64_t scalars = n_ * value_heads(), channels = values() + 2 * keys();
  const auto view = [&](int64_t size, std::vector<int> of) {
    return tape.add({.value = 0, .inputs = std::move(of), .gradient = size});
  };
  // Blocks of columns are views, whose gradients the last one's entry joins.
  const int all = tape.add({values() + channels + scalars, {u}});
  const int z = view(values(), {}), columns = view(channels, {}), dt = view(scalars, {all});
  const int conv = convolve(tape, columns, channels);
  const int x = view(values(), {}), k = view(keys(), {}), q = view(keys(), {conv});
  const int g = tape.add({scalars, {}}), v = tape.add({values(), {x, dt}, scalars});
  const int y = add_states(tape, MixerKind::kMamba2, {q, k, v, g});
  // The skip hands its gradient on to y, with which it is counted; the norm's backward makes it.
  const int skip = tape.add({.value = values(), .inputs = {y, x}, .gradient = 0});
  output(tape, tape.add({.value = values(),
                         .inputs = {skip, z},
                         .saved = n_ * std::min(key_heads(), value_heads()),
                         .backward = values()}));
}

void BlockSizes::add_delta(SizeTape& tape, int x, MixerKind kind) const {
  const LinearMixerOptions& o = model_.mixer.linear;
  const auto project = [&](int64_t elems) {
    const int y = tape.add({elems, {x}});
    return o.short_conv ? convolve(tape, y, elems) : tape.add({elems, {y}});
  };
  Qkv h{project(keys()), project(keys()), project(values())};
  h.q = tape.add({keys(), {h.q}, n_ * key_heads()});
  h.k = tape.add({keys(), {h.k}, n_ * key_heads()});
  const auto gate_of_heads = [&] {
    const int y = tape.add({n_ * value_heads(), {x}});
    return tape.add({n_ * value_heads(), {y}});
  };
  std::vector<int> inputs = {h.q, h.k, h.v, gate_of_heads()};
  if (kind == MixerKind::kGatedDeltaNet) inputs.push_back(gate_of_heads());
  normed_output(tape, add_states(tape, kind, std::move(inputs)), x, value_heads());
}

}  // namespace spanwise
