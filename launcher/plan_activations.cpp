// The tape of one micro-batch, replayed on sizes alone. An op's record keeps its results and what its header
// says it saves until its backward has run; a gradient lives from its first term to its op's backward.
// Within a norm over x + residual both inputs get one gradient tensor, which is counted with the residual.

#include <algorithm>

#include "launcher/build_model.h"
#include "launcher/plan.h"

namespace spanwise {

namespace {

/// In elements.
struct Op {
  int64_t value;             ///< results
  std::vector<int> inputs;   ///< ops whose gradients this one adds to
  int64_t saved = 0;         ///< beside the results
  int64_t backward = 0;      ///< temporaries of backward
  bool grad_shared = false;  ///< the result's gradient is another one's memory
};

class SizeTape {
 public:
  int add(Op op) {
    live_ += op.value + op.saved;
    ops_.push_back(std::move(op));
    return int(ops_.size()) - 1;
  }
  int64_t live() const { return live_; }

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
        const int64_t size = ops_[input].grad_shared ? 0 : ops_[input].value;
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
  int64_t live_ = 0;
};

class BlockSizes {
 public:
  BlockSizes(const LanguageModelOptions& model, int64_t rows, int64_t row_tokens)
      : model_(model), rows_(rows), row_tokens_(row_tokens), n_(rows * row_tokens) {}

  int64_t stream() const { return n_ * model_.mixer.hidden; }

  /// Adds a block that reads the stream of op `residual`; `first`: the stream is not yet a sum. Returns
  /// the op of the stream after the mixer.
  int add(SizeTape& tape, MixerKind kind, int residual, bool first) const {
    const int before = first ? residual : tape.add({stream(), {residual}});
    const int x = tape.add({stream(), {before}, n_});
    kind == MixerKind::kAttention ? add_attention(tape, x) : add_delta(tape, x, kind);
    const int between = tape.add({stream(), {before}});
    const int y = tape.add({stream(), {between}, n_});
    const int64_t inner =
        n_ * divide_unevenly(model_.mixer.tensor, model_.intermediate, "model.intermediate_size").size();
    const int gate = tape.add({inner, {y}}), up = tape.add({inner, {y}});
    output(tape, tape.add({inner, {gate, up}}));
    return between;
  }

 private:
  int64_t heads(int64_t all) const { return divide_or_share(model_.mixer.tensor, all, "heads").size(); }
  /// A projection back into the stream.
  void output(SizeTape& tape, int x) const {
    tape.add({.value = stream(), .inputs = {x}, .grad_shared = true});
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
    apply(q, H, row_tokens_ * o.head_dim);  // tables of rotations
    apply(k, HKV, row_tokens_ * o.head_dim);
    int out = tape.add({n_ * H * o.head_dim, {q, k, v}, n_ * H});
    if (o.output_gate) {
      const int gate = tape.add({n_ * H * o.head_dim, {project(H)}});
      out = tape.add({n_ * H * o.head_dim, {out, gate}});
    }
    output(tape, out);
  }

  void add_delta(SizeTape& tape, int x, MixerKind kind) const {
    const LinearMixerOptions& o = model_.mixer.linear;
    const int64_t H = heads(o.num_heads), HV = heads(o.num_value_heads), K = o.key_dim, V = o.value_dim;
    const auto project = [&](int64_t channels) {
      const int y = tape.add({n_ * channels, {x}});
      return tape.add({n_ * channels, {y}, o.short_conv ? rows_ * (o.conv_size - 1) * channels : 0});
    };
    int q = project(H * K), k = project(H * K);
    const int v = project(HV * V);
    q = tape.add({n_ * H * K, {q}, n_ * H});
    k = tape.add({n_ * H * K, {k}, n_ * H});
    const auto gate_of_heads = [&] {
      const int y = tape.add({n_ * HV, {x}});
      return tape.add({n_ * HV, {y}});
    };
    std::vector<int> inputs = {q, k, v, gate_of_heads()};
    if (kind == MixerKind::kGatedDeltaNet) inputs.push_back(gate_of_heads());
    const int64_t states = rows_ * ((row_tokens_ + o.chunk - 1) / o.chunk);  // before chunks, and the last
    const int y = tape.add({n_ * HV * V, inputs, states * HV * K * V, HV > H ? 2 * n_ * HV * K : 0});
    std::vector<int> normed = {y};
    if (o.output_gate) normed.push_back(tape.add({n_ * HV * V, {x}}));
    output(tape, tape.add({n_ * HV * V, normed, n_ * HV}));
  }

  const LanguageModelOptions& model_;
  int64_t rows_, row_tokens_, n_;
};

}  // namespace

std::optional<int64_t> plan_activations(const RunConfig& config, const Mesh& mesh,
                                        const LanguageModel& model) {
  const LanguageModelOptions& o = model.options();
  if (mesh.sequence().size() * mesh.tensor().size() > 1) return std::nullopt;
  for (int64_t layer = 0; layer < o.num_layers; ++layer) {
    const MixerKind kind = model.mixer_of(layer);
    if (kind != MixerKind::kAttention && kind != MixerKind::kDeltaNet && kind != MixerKind::kGatedDeltaNet)
      return std::nullopt;
  }
  const int64_t rows = config.train().micro_batch(), tokens = rows * config.train().sequence_length();
  const BlockSizes blocks(o, rows, config.train().sequence_length());
  const int64_t stream = blocks.stream();
  // The loss holds the gradients of the stream and of the head, and a chunk's logits while it runs.
  const int64_t loss = stream + o.vocab_size * o.mixer.hidden,
                logits = std::min(o.loss_chunk_rows, tokens) * o.vocab_size;

  SizeTape tape;
  int residual = tape.add({stream, {}});
  int64_t peak = 0;
  for (int64_t layer = 0; layer < o.num_layers; ++layer) {
    if (!o.activation_checkpointing) {
      residual = blocks.add(tape, model.mixer_of(layer), residual, layer == 0);
      continue;
    }
    // The block's results stay; in backward all of it is there once more, beside the stream's gradient.
    residual = tape.add({2 * stream, {}});
    SizeTape again;
    const int leaf = again.add({0, {}});
    const int sum = blocks.add(again, model.mixer_of(layer), leaf, layer == 0);
    peak = std::max(peak, tape.live() + stream + again.backward_peak(sum) + stream);
  }
  const int sum = tape.add({stream, {residual}});
  tape.add({stream, {sum}, tokens});
  peak = std::max({peak, tape.live() + loss + logits, tape.backward_peak() + stream});
  return peak * int64_t(size_of(compute_dtype(config)));
}

}  // namespace spanwise
