#pragma once
// The ops of one block, as sizes: what each mixer and the MLP keep (models/block.cpp, models/mixers/), in
// elements of the activations' dtype. What an op's kernels take on a device its header says.

#include <optional>
#include <vector>

#include "core/ops/linear_kernels.h"
#include "launcher/exchange_sizes.h"
#include "launcher/flat_model.h"
#include "launcher/size_tape.h"
#include "parallel/sequence_parallel.h"
#include "parallel/tensor_parallel.h"

namespace spanwise {

/// What a rank holds of a micro-batch.
struct LocalRows {
  int64_t rows, row_tokens, num_positions;
  /// Where rows are parts of longer ones, which several ranks hold.
  struct Spans {
    SequencePlan plan;
    SequenceParallelOptions exchanges;
  };
  std::optional<Spans> spans;
};

/// The ops of a block's results (models/block.h): the stream is their sum; delta −1: residual alone.
struct SizedStream {
  int delta, residual;
};

/// `model` must outlive it.
class BlockSizes {
 public:
  BlockSizes(const FlatModel& model, LocalRows local, const ComputeKind& compute)
      : model_(model),
        local_(std::move(local)),
        compute_(compute),
        n_(local_.rows * local_.row_tokens),
        tensor_stream_(model.mixer.tensor, model.shard_norms) {}

  int64_t tokens() const { return n_; }
  /// Tokens of the stream between layers.
  int64_t stream_tokens() const { return tensor_stream_.held_rows(n_); }
  int64_t stream() const { return stream_tokens() * model_.mixer.hidden; }
  /// What layers read and return.
  int64_t all_rows() const { return n_ * model_.mixer.hidden; }
  bool divided() const { return model_.mixer.tensor.size() > 1; }
  /// What tensor ranks read of a normed stream after the blocks: its memory, with a gradient of its own to be
  /// summed, or all ranks' rows, whose gradient is copied to be summed.
  int enter(SizeTape& tape, int x) const;
  /// Adds a block that reads a stream, and returns the stream it leaves.
  SizedStream add(SizeTape& tape, MixerKind kind, const SizedStream& in, int64_t layer) const;
  /// What a norm reads and keeps: the stream's terms, summed; and the norm.
  int sum(SizeTape& tape, const SizedStream& in) const;
  int norm(SizeTape& tape, int x) const;

 private:
  struct Qkv {
    int q, k, v;
  };

  int64_t heads(int64_t all) const;
  int64_t precise(int64_t elems) const { return compute_.precise(elems); }
  int64_t key_heads() const { return heads(model_.mixer.linear.num_heads); }
  int64_t value_heads() const { return heads(model_.mixer.linear.num_value_heads); }
  /// Elements of all tokens' keys, and of their values.
  int64_t keys() const { return n_ * key_heads() * model_.mixer.linear.key_dim; }
  int64_t values() const { return n_ * value_heads() * model_.mixer.linear.value_dim; }

  // Each returns the op of its result.
  int linear(SizeTape& tape, int64_t elems, int x, bool recompute = false) const;
  int cheap(SizeTape& tape, int64_t elems, std::vector<int> inputs, int64_t saved = 0) const;
  int enter_layer(SizeTape& tape, int x) const;
  int convolve(SizeTape& tape, int x, int64_t elems) const;
  Qkv project_qkv(SizeTape& tape, int x) const;
  int attend(SizeTape& tape, int q, int k, int v) const;
  int64_t rope_table(int64_t width) const;
  LinearStateBytes state_bytes(MixerKind kind) const;
  int add_states(SizeTape& tape, MixerKind kind, std::vector<int> inputs) const;

  // Up to the sum with the stream, of which they return the term.
  int output(SizeTape& tape, int x) const;
  int normed_output(SizeTape& tape, int y, int x, int64_t num_norms) const;
  int add_mixer(SizeTape& tape, int x, MixerKind kind) const;
  int add_attention(SizeTape& tape, int x) const;
  int add_linear_attention(SizeTape& tape, int x) const;
  int add_lightning(SizeTape& tape, int x) const;
  int add_retention(SizeTape& tape, int x) const;
  int add_mamba2(SizeTape& tape, int u) const;
  int add_delta(SizeTape& tape, int x, MixerKind kind) const;

  const FlatModel& model_;
  LocalRows local_;
  ComputeKind compute_;
  int64_t n_;
  TensorStream tensor_stream_;
};

}  // namespace spanwise
