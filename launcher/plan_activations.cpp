// The tape of one micro-batch, replayed on sizes alone. An op's record keeps its results and what its header
// says it saves until its backward has run; a gradient lives from its first term to its op's backward.
// Within a norm over x + residual both inputs get one gradient tensor, which is counted with the residual.

#include <algorithm>

#include "launcher/build_model.h"
#include "launcher/plan.h"
#include "parallel/state_exchange.h"

namespace spanwise {

namespace {

/// In elements.
struct Op {
  int64_t value;                    ///< results
  std::vector<int> inputs;          ///< ops whose gradients this one adds to
  int64_t saved = 0;                ///< beside the results
  int64_t backward = 0;             ///< temporaries of backward
  std::optional<int64_t> gradient;  ///< of the results, where not as large as they: views, shared memory
  int64_t gradient_size() const { return gradient.value_or(value); }
};

class SizeTape {
 public:
  int add(Op op) {
    live_ += op.value + op.saved;
    ops_.push_back(std::move(op));
    return int(ops_.size()) - 1;
  }
  int64_t live() const { return live_; }

  /// Notes values from other ranks: a checkpointed block's first forward keeps them.
  void receive(int64_t elems) { received_ += elems; }
  int64_t received() const { return received_; }

  /// Most elements while backward runs. `given`: op whose gradient is there before it, counted by the caller.
  int64_t backward_peak(int given = -1) const {
    std::vector<int64_t> grads(ops_.size(), 0);
    std::vector<char> reached(ops_.size(), 0);
    if (given >= 0) reached[given] = 1;
    int64_t live = live_, peak = live_;
    for (int i = int(ops_.size()) - 1; i >= 0; --i) {
      const Op& op = ops_[i];
      int64_t temporary = op.backward;
      for (const int input : op.inputs) {
        const int64_t size = ops_[input].gradient_size();
        if (reached[input]) {
          temporary += size;
        } else {
          grads[input] = size;
          live += size;
        }
        reached[input] = 1;
      }
      peak = std::max(peak, live + temporary);
      live -= op.value + op.saved + grads[i];
    }
    return peak;
  }

 private:
  std::vector<Op> ops_;
  int64_t live_ = 0, received_ = 0;
};

/// What a rank holds of a micro-batch.
struct LocalRows {
  int64_t rows, row_tokens, num_positions;
  int64_t sequence_ranks, all_tokens;  ///< of all sequence ranks
};

LocalRows local_rows(const RunConfig& config, const Mesh& mesh) {
  const int64_t batch = config.train().micro_batch(), length = config.train().sequence_length();
  const SequencePartition p(sequence_options(config).partition, mesh.sequence().size(), length);
  if (p.num_ranks() == 1) return {batch, length, length, 1, batch * length};
  return {batch * p.slots(), p.capacity(), p.capacity() * p.slots(), p.num_ranks(), batch * length};
}

class BlockSizes {
 public:
  BlockSizes(const LanguageModelOptions& model, const LocalRows& local)
      : model_(model),
        local_(local),
        n_(local.rows * local.row_tokens),
        tensor_stream_(model.mixer.tensor, model.shard_norms),
        recomputes_(model.activation_checkpointing) {}

  /// Tokens of the stream between layers.
  int64_t stream_tokens() const { return tensor_stream_.held_rows(n_); }
  int64_t stream() const { return stream_tokens() * model_.mixer.hidden; }
  /// What layers read and return.
  int64_t all_rows() const { return n_ * model_.mixer.hidden; }
  bool divided() const { return model_.mixer.tensor.size() > 1; }
  /// What tensor ranks read of a normed stream: its memory, with a gradient of its own to be summed, or all
  /// ranks' rows (`received` of them held), whose gradient is copied to be summed.
  int enter(SizeTape& tape, int x, int64_t received) const {
    if (!divided()) return x;
    if (!tensor_stream_.sharded()) return tape.add({.value = 0, .inputs = {x}, .gradient = all_rows()});
    return tape.add({.value = received, .inputs = {x}, .backward = all_rows(), .gradient = all_rows()});
  }

  /// Adds a block that reads the stream of op `residual`; `first`: the stream is not yet a sum. Returns
  /// the op of the stream after the mixer.
  int add(SizeTape& tape, MixerKind kind, int residual, bool first) const {
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

 private:
  int64_t heads(int64_t all) const { return divide_or_share(model_.mixer.tensor, all, "heads").size(); }
  int enter_layer(SizeTape& tape, int x) const {
    return enter(tape, x, tensor_stream_.sharded() ? received(tape, all_rows()) : 0);
  }
  /// A projection back into the stream, and tensor ranks' sum, which a recomputation finds still there.
  void output(SizeTape& tape, int x) const {
    const int64_t gradient = tensor_stream_.sharded() ? all_rows() : 0;
    const int y = tape.add({.value = all_rows(), .inputs = {x}, .gradient = gradient});
    if (divided()) tape.add({.value = received(tape, stream()), .inputs = {y}, .gradient = 0});
  }
  bool in_spans() const { return local_.sequence_ranks > 1; }
  /// What ops on a tape add for values from other ranks: a recomputation finds them still there.
  int64_t received(SizeTape& tape, int64_t elems) const {
    tape.receive(elems);
    return recomputes_ ? 0 : elems;
  }

  /// A short convolution, with the tokens before the rows of a span.
  int convolve(SizeTape& tape, int x, int64_t elems) const {
    const int64_t edge = elems / n_ * local_.rows * (model_.mixer.linear.conv_size - 1);
    std::vector<int> inputs = {x};
    if (in_spans())
      inputs.push_back(tape.add({.value = received(tape, edge), .inputs = {x}, .gradient = edge}));
    return tape.add({elems, inputs, edge});
  }

  void add_attention(SizeTape& tape, int x) const {
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
    // Keys and values of whole rows, and in backward their gradients, in rows and as they travel.
    const int64_t gathered = in_spans() ? 2 * local_.all_tokens * HKV * o.head_dim : 0;
    int out = tape.add({n_ * H * o.head_dim, {q, k, v}, n_ * H + received(tape, gathered), 2 * gathered});
    if (o.output_gate) {
      const int gate = tape.add({n_ * H * o.head_dim, {project(H)}});
      out = tape.add({n_ * H * o.head_dim, {out, gate}});
    }
    output(tape, out);
  }

  void add_mixer(SizeTape& tape, int x, MixerKind kind) const {
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

  int64_t key_heads() const { return heads(model_.mixer.linear.num_heads); }
  int64_t value_heads() const { return heads(model_.mixer.linear.num_value_heads); }
  /// Elements of all tokens' keys, and of their values.
  int64_t keys() const { return n_ * key_heads() * model_.mixer.linear.key_dim; }
  int64_t values() const { return n_ * value_heads() * model_.mixer.linear.value_dim; }

  struct Qkv {
    int q, k, v;
  };
  Qkv project_qkv(SizeTape& tape, int x) const {
    return {tape.add({keys(), {x}}), tape.add({keys(), {x}}), tape.add({values(), {x}})};
  }

  /// The states of a family's chunks; returns its output.
  int add_states(SizeTape& tape, MixerKind kind, std::vector<int> inputs) const {
    const LinearMixerOptions& o = model_.mixer.linear;
    const int64_t chunks = (local_.row_tokens + o.chunk - 1) / o.chunk;
    // Of a row: the states before chunks but the first, and the last one.
    const int64_t states = local_.rows * value_heads() * o.key_dim * o.value_dim;
    const int64_t keys_of_values = n_ * value_heads() * o.key_dim;
    Op op{values(), std::move(inputs), chunks * states};
    if (value_heads() > key_heads()) op.backward = 2 * keys_of_values;
    if (in_spans()) {
      const bool dense = kind == MixerKind::kDeltaNet || kind == MixerKind::kGatedDeltaNet;
      const int64_t transitions =
          dense ? local_.sequence_ranks * local_.rows * value_heads() * o.key_dim * o.key_dim : 0;
      op.saved += received(tape, states + transitions);
      // Gradients of states: to all ranks, from all ranks, folded. Scalar decay sums dk itself.
      op.backward += (local_.sequence_ranks + 2) * states;
      if (!dense && value_heads() == key_heads()) op.backward += keys_of_values;
    }
    return tape.add(std::move(op));
  }

  /// Norm with `num_norms` sums a token, its gate, and projection.
  void normed_output(SizeTape& tape, int y, int x, int64_t num_norms) const {
    std::vector<int> inputs = {y};
    if (model_.mixer.linear.output_gate) inputs.push_back(tape.add({values(), {x}}));
    output(tape, tape.add({values(), inputs, n_ * num_norms}));
  }

  void add_linear_attention(SizeTape& tape, int x) const {
    const FeatureMap map = model_.mixer.linear.feature_map;
    Qkv h = project_qkv(tape, x);
    const auto apply = [&](int& to) {
      if (map == FeatureMap::kIdentity) return;
      std::vector<int> inputs = {to};
      if (map == FeatureMap::kElementwiseProduct)
        inputs = {tape.add({keys(), {to}}), tape.add({keys(), {to}})};
      to = tape.add({keys(), inputs});
    };
    apply(h.q);
    apply(h.k);
    const int y = add_states(tape, MixerKind::kLinearAttention, {h.q, h.k, h.v});
    output(tape, tape.add({values(), {y}, n_ * value_heads()}));
  }

  void add_lightning(SizeTape& tape, int x) const {
    Qkv h = project_qkv(tape, x);
    h = {tape.add({keys(), {h.q}}), tape.add({keys(), {h.k}}), tape.add({values(), {h.v}})};
    normed_output(tape, add_states(tape, MixerKind::kLightning, {h.q, h.k, h.v}), x, 1);
  }

  void add_retention(SizeTape& tape, int x) const {
    Qkv h = project_qkv(tape, x);
    const int64_t table = local_.num_positions * model_.mixer.linear.key_dim;
    h.q = tape.add({keys(), {h.q}, table});
    h.k = tape.add({keys(), {h.k}, table});
    normed_output(tape, add_states(tape, MixerKind::kRetention, {h.q, h.k, h.v}), x, value_heads());
  }

  void add_mamba2(SizeTape& tape, int u) const {
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
    output(tape, tape.add({values(), {skip, z}, n_ * std::min(key_heads(), value_heads()), values()}));
  }

  void add_delta(SizeTape& tape, int x, MixerKind kind) const {
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

  const LanguageModelOptions& model_;
  LocalRows local_;
  int64_t n_;
  TensorStream tensor_stream_;
  bool recomputes_;
};

/// Whether sequence ranks exchange in a way whose buffers are counted: states and keys by all-gathers.
bool covers(const RunConfig& config, const LanguageModel& model, const LocalRows& local) {
  if (local.sequence_ranks == 1) return true;
  const SequenceParallelOptions exchanges = sequence_options(config).parallel;
  const LanguageModelOptions& o = model.options();
  const LinearMixerOptions& l = o.mixer.linear;
  for (int64_t layer = 0; layer < o.num_layers; ++layer) {
    const MixerKind kind = model.mixer_of(layer);
    if (kind == MixerKind::kAttention) {
      if (exchanges.attention != AttentionExchange::kAllGather || o.mixer.attention.window > 0) return false;
      continue;
    }
    if (exchanges.exchange == StateExchange::kAllGather) continue;
    const bool dense = kind == MixerKind::kDeltaNet || kind == MixerKind::kGatedDeltaNet;
    const SpanShape shape{.rows = local.rows,
                          .heads = divide_or_share(o.mixer.tensor, l.num_value_heads, "heads").size(),
                          .key_dim = l.key_dim,
                          .value_dim = l.value_dim,
                          .transition = dense ? TransitionKind::kDense : TransitionKind::kLogDecay,
                          .dtype = compute_dtype(config)};
    if (exchanges.exchange != StateExchange::kAuto || prefers_head_split(shape, int(local.sequence_ranks)))
      return false;
  }
  return true;
}

}  // namespace

std::optional<int64_t> plan_activations(const RunConfig& config, const Mesh& mesh,
                                        const LanguageModel& model) {
  const LanguageModelOptions& o = model.options();
  const LocalRows local = local_rows(config, mesh);
  if (!covers(config, model, local)) return std::nullopt;
  const int64_t tokens = local.rows * local.row_tokens;
  const BlockSizes blocks(o, local);
  const int64_t stream = blocks.stream();
  // The loss holds the gradients of the stream and of the head, and a chunk's logits while it runs.
  const int64_t vocabulary = divide_unevenly(o.mixer.tensor, o.vocab_size, "model.vocab_size").size();
  const int64_t loss = blocks.all_rows() + vocabulary * o.mixer.hidden,
                logits = std::min(o.loss_chunk_rows, tokens) * vocabulary;

  SizeTape tape;
  int residual = tape.add({.value = stream, .inputs = {}, .saved = blocks.divided() ? blocks.all_rows() : 0});
  int64_t peak = 0;
  for (int64_t layer = 0; layer < o.num_layers; ++layer) {
    if (!o.activation_checkpointing) {
      residual = blocks.add(tape, model.mixer_of(layer), residual, layer == 0);
      continue;
    }
    SizeTape again;
    const int leaf = again.add({0, {}});
    const int sum = blocks.add(again, model.mixer_of(layer), leaf, layer == 0);
    // The block's results stay, and what it received, of which the MLP's sum is a result; in backward all of
    // it is there once more, beside the stream's gradient.
    const int64_t received = again.received() - (blocks.divided() ? stream : 0);
    residual = tape.add({.value = 2 * stream, .inputs = {}, .saved = received});
    peak = std::max(peak, tape.live() + stream + again.backward_peak(sum) + stream);
  }
  const int sum = tape.add({stream, {residual}});
  blocks.enter(tape, tape.add({stream, {sum}, blocks.stream_tokens()}), blocks.all_rows());
  peak = std::max({peak, tape.live() + loss + logits, tape.backward_peak() + stream});
  return peak * int64_t(size_of(compute_dtype(config)));
}

}  // namespace spanwise
