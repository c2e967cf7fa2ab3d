// The collectives of one training step, in the order of Trainer::train_step and LanguageModel::loss.

#include <algorithm>
#include <map>

#include "launcher/config/derived.h"
#include "launcher/exchange_sizes.h"
#include "launcher/objects.h"
#include "launcher/plan.h"
#include "parallel/gradient_reducer.h"
#include "parallel/halo.h"

namespace spanwise {

namespace {

class TrafficTable {
 public:
  void add(const Comm& axis, const std::string& name, int64_t received_bytes, int64_t calls = 1) {
    if (axis.size() == 1 || calls == 0) return;
    Traffic& row = rows_[{axis.axis(), name}];
    row.calls += calls;
    row.received_bytes += received_bytes;
  }
  void all_reduce(const Comm& axis, const std::string& name, int64_t bytes, int64_t calls = 1) {
    add(axis, name, calls * ReceivedBytes::all_reduce(axis.size(), bytes), calls);
  }
  void all_gather(const Comm& axis, const std::string& name, int64_t bytes) {
    add(axis, name, ReceivedBytes::all_gather(axis.size(), bytes));
  }
  void reduce_scatter(const Comm& axis, const std::string& name, int64_t bytes) {
    add(axis, name, ReceivedBytes::reduce_scatter(axis.size(), bytes));
  }
  void all_to_all(const Comm& axis, const std::string& name, int64_t bytes) {
    add(axis, name, ReceivedBytes::all_to_all(axis.size(), bytes));
  }

  /// Adds `times` times what the other has.
  void add(const TrafficTable& other, int64_t times) {
    for (const auto& [key, traffic] : other.rows_) {
      rows_[key].calls += times * traffic.calls;
      rows_[key].received_bytes += times * traffic.received_bytes;
    }
  }
  std::vector<PlannedTraffic> rows() const {
    std::vector<PlannedTraffic> rows;
    for (const auto& [key, traffic] : rows_)
      rows.push_back({key.first, key.second, traffic.calls, traffic.received_bytes});
    return rows;
  }

 private:
  std::map<std::pair<std::string, std::string>, Traffic> rows_;
};

/// Forward and backward of one micro-batch.
class MicroBatchTraffic {
 public:
  MicroBatchTraffic(const RunConfig& config, const Mesh& mesh, const LanguageModel& model)
      : mesh_(mesh),
        model_(flat_model(model.options())),
        sequence_(sequence_options(config, mesh)),
        plan_(whole_documents(
            SequencePartition(sequence_.partition, mesh.sequence().size(), config.train().sequence_length()),
            mesh.sequence().rank(), config.train().micro_batch())),
        dtype_(compute_dtype(config)),
        element_bytes_(int64_t(size_of(dtype_))),
        sum_bytes_(int64_t(size_of(accumulation_dtype(dtype_)))),
        tokens_(plan_.num_local_rows() * plan_.partition().capacity()) {
    add_stream();
    add_cross_entropy(loss_chunk_tokens(config, model_.vocab_size));
    for (int64_t layer = 0; layer < model_.num_layers; ++layer) {
      const MixerKind kind = model_.mixer_of(layer);
      add_norm_over_heads(kind);
      if (mesh.sequence().size() == 1) continue;
      if (kind == MixerKind::kAttention) {
        add_attention();
      } else {
        add_short_convolutions(kind);
        add_states(kind);
      }
    }
  }

  const TrafficTable& table() const { return table_; }

 private:
  // Embedding, then mixer and MLP of every block; into the head as well, backward.
  void add_stream() {
    const TensorStream stream(model_.mixer.tensor, model_.shard_norms);
    const int64_t bytes = stream.held_rows(tokens_) * model_.mixer.hidden * element_bytes_,
                  calls = 2 * model_.num_layers + 1;
    if (stream.sharded()) {
      for (int64_t call = 0; call < calls; ++call) {
        table_.all_gather(mesh_.tensor(), "gather_rows", bytes);
        table_.reduce_scatter(mesh_.tensor(), "gather_rows backward", bytes);
        table_.reduce_scatter(mesh_.tensor(), "scatter_rows_sum", bytes);
        table_.all_gather(mesh_.tensor(), "scatter_rows_sum backward", bytes);
      }
      return;
    }
    table_.all_reduce(mesh_.tensor(), "reduce_from", bytes, calls);
    table_.all_reduce(mesh_.tensor(), "copy_to backward", bytes, calls);
  }

  // A chunk's maxima, then its sums and targets.
  void add_cross_entropy(int64_t chunk_rows) {
    for (int64_t begin = 0; begin < tokens_; begin += chunk_rows) {
      const int64_t bytes = std::min(chunk_rows, tokens_ - begin) * sum_bytes_;
      table_.all_reduce(mesh_.tensor(), "cross entropy", bytes);
      table_.all_reduce(mesh_.tensor(), "cross entropy", 2 * bytes);
    }
  }

  void add_norm_over_heads(MixerKind kind) {
    if (kind != MixerKind::kLightning && kind != MixerKind::kMamba2) return;
    table_.all_reduce(mesh_.tensor(), "norm over heads", tokens_ * sum_bytes_, 2);
  }

  int64_t local_heads(int64_t heads) const {
    return divide_or_share(model_.mixer.tensor, heads, "heads").size();
  }

  void add_short_convolutions(MixerKind kind) {
    const FlatLinear& o = model_.mixer.linear;
    const int64_t keys = local_heads(o.num_heads) * o.key_dim,
                  values = local_heads(o.num_value_heads) * o.value_dim;
    if (kind == MixerKind::kMamba2) {
      add_halo("halo", o.conv_size - 1, values + 2 * keys, 1);
    } else if (o.short_conv && (kind == MixerKind::kDeltaNet || kind == MixerKind::kGatedDeltaNet)) {
      add_halo("halo", o.conv_size - 1, values + 2 * keys, 3);
    }
  }

  /// `channels` over all calls.
  void add_halo(const std::string& name, int64_t width, int64_t channels, int64_t calls) {
    const Halo halo(plan_, width);
    table_.add(mesh_.sequence(), name + "_forward", halo.received_tokens() * channels * element_bytes_,
               calls);
    table_.add(mesh_.sequence(), name + "_backward", halo.given_tokens() * channels * element_bytes_, calls);
  }

  void add_states(MixerKind kind) {
    const SpanShape shape =
        span_shape(model_.mixer, kind, plan_.num_local_rows(), accumulation_dtype(dtype_));
    const int64_t summary = shape.elems() * sum_bytes_,
                  states = shape.rows * shape.state_elems() * sum_bytes_;
    switch (chosen_exchange(sequence_.parallel.exchange, shape, mesh_.sequence().size())) {
      case StateExchange::kAllGather:
        return add_state_gathers(summary, states);
      case StateExchange::kChain:
        return add_chain(states);
      case StateExchange::kHeadSplit:
        return add_head_split(summary, states);
      case StateExchange::kTwoLevel:
        return add_two_level(summary, states);
      case StateExchange::kAuto:
        break;
    }
    SPANWISE_FAIL("no traffic of state exchange {}", int(sequence_.parallel.exchange));
  }

  void add_state_gathers(int64_t summary, int64_t states) {
    table_.all_gather(mesh_.sequence(), "state_forward", summary);
    table_.all_gather(mesh_.sequence(), "state_backward", states);
  }

  // Every rank takes part in each border's exchange; one of them receives, other ones backward.
  void add_chain(int64_t states) {
    const SequencePartition& p = plan_.partition();
    const int64_t part_bytes = states / p.slots();
    for (int part = 0; part + 1 < p.num_parts(); ++part) {
      const int left = p.owner(part), right = p.owner(part + 1);
      if (left == right) continue;
      table_.add(mesh_.sequence(), "state_forward", right == plan_.rank() ? part_bytes : 0);
      table_.add(mesh_.sequence(), "state_backward", left == plan_.rank() ? part_bytes : 0);
    }
  }

  void add_head_split(int64_t summary, int64_t states) {
    table_.all_to_all(mesh_.sequence(), "state_forward", summary);
    table_.all_to_all(mesh_.sequence(), "state_backward", states);
    for (const char* name : {"state_forward_return", "state_backward_return"})
      table_.all_to_all(mesh_.sequence(), name, states);
  }

  void add_two_level(int64_t summary, int64_t states) {
    const int64_t inside = sequence_.parallel.ranks_per_node, nodes = mesh_.sequence().size() / inside;
    for (const auto& [direction, bytes] : {std::pair{"state_forward", summary}, {"state_backward", states}}) {
      table_.add(mesh_.sequence(), direction, (inside - 1) * bytes);
      table_.add(mesh_.sequence(), std::string(direction) + "_nodes", (nodes - 1) * bytes);
    }
  }

  void add_attention() {
    const AttentionOptions& o = model_.mixer.attention;
    const int64_t heads = local_heads(o.num_heads), kv_heads = local_heads(o.num_kv_heads);
    const int64_t ranks = mesh_.sequence().size(), kv_width = 2 * kv_heads * o.head_dim;
    const int64_t kv_bytes = tokens_ * kv_width * element_bytes_,
                  kv_sum_bytes = tokens_ * kv_width * sum_bytes_;
    switch (sequence_.parallel.attention) {
      case AttentionExchange::kAllGather:
        if (o.window > 0) {
          return add_halo("attention", window_halo_width(o.window, plan_.partition().length()), kv_width, 1);
        }
        table_.all_gather(mesh_.sequence(), "attention_forward", kv_bytes);
        table_.reduce_scatter(mesh_.sequence(), "attention_backward", kv_sum_bytes);
        return;
      case AttentionExchange::kRing:
        table_.add(mesh_.sequence(), "attention_forward", (ranks - 1) * kv_bytes, ranks - 1);
        table_.add(mesh_.sequence(), "attention_backward", (ranks - 1) * (kv_bytes + kv_sum_bytes),
                   2 * (ranks - 1));
        return;
      case AttentionExchange::kUlysses: {
        const int64_t own_heads = heads / ranks, own_kv_heads = std::max<int64_t>(kv_heads / ranks, 1);
        const int64_t head_bytes = ranks * tokens_ * o.head_dim * element_bytes_,
                      qkv_bytes = (own_heads + 2 * own_kv_heads) * head_bytes,
                      out_bytes = own_heads * head_bytes;
        table_.all_to_all(mesh_.sequence(), "attention_forward", qkv_bytes);
        table_.all_to_all(mesh_.sequence(), "attention_forward_return", out_bytes);
        table_.all_to_all(mesh_.sequence(), "attention_backward", out_bytes);
        table_.all_to_all(mesh_.sequence(), "attention_backward_return", qkv_bytes);
        return;
      }
    }
  }

  const Mesh& mesh_;
  const FlatModel model_;
  SequenceOptions sequence_;
  SequencePlan plan_;
  DType dtype_;
  int64_t element_bytes_, sum_bytes_;  ///< of activations; of sums, gates and states
  int64_t tokens_;
  TrafficTable table_;
};

/// Stage 3 gathers a part before its forward and again before its backward; tied embeddings are read twice.
TrafficTable part_gathers(const Mesh& mesh, const LanguageModel& model, const ParamLayout& params,
                          DType dtype) {
  TrafficTable table;
  for (const ParamBucket& bucket : params.buckets()) {
    const int uses = bucket.part == 0 && model.options().tie_embeddings ? 2 : 1;
    for (int use = 0; use < 2 * uses; ++use) {
      table.all_gather(mesh.data_sequence(), "param_gather",
                       params.own_slice(bucket).numel() * int64_t(size_of(model_dtype(bucket, dtype))));
    }
  }
  return table;
}

/// Gradients, their norm, and the parameters' update: once a step.
void add_update(TrafficTable& table, const Mesh& mesh, const ParamLayout& params, int zero_stage,
                DType dtype) {
  const int64_t element_bytes = int64_t(size_of(accumulation_dtype(dtype)));
  for (const ParamBucket& bucket : params.buckets()) {
    const int64_t slice = params.own_slice(bucket).numel() * element_bytes;
    if (zero_stage == 0) {
      table.all_reduce(mesh.data_sequence(), "grad_reduce", bucket.range.numel() * element_bytes);
    } else {
      table.reduce_scatter(mesh.data_sequence(), "grad_reduce", slice);
    }
    if (zero_stage == 1 || zero_stage == 2) {
      table.all_gather(mesh.data_sequence(), "param_gather",
                       params.own_slice(bucket).numel() * int64_t(size_of(model_dtype(bucket, dtype))));
    }
  }
  for (const PartialGradients& group : partial_gradient_groups(params))
    table.all_reduce(mesh.tensor(), "grad_reduce_partial", group.numel * element_bytes);

  // Targets and a vote; loss and two votes.
  constexpr int64_t kNumberBytes = sizeof(double), kCountNumbers = 2, kLossNumbers = 3;
  table.all_reduce(mesh.world(), "target_count", kCountNumbers * kNumberBytes);
  table.all_reduce(mesh.world(), "loss", kLossNumbers * kNumberBytes);
  if (zero_stage > 0) table.all_reduce(mesh.data_sequence(), "grad_norm", kNumberBytes);
  table.all_reduce(mesh.tensor(), "grad_norm", kNumberBytes);
}

}  // namespace

std::vector<PlannedTraffic> plan_traffic(const RunConfig& config, const Mesh& mesh,
                                         const LanguageModel& model, const ParamLayout& params,
                                         int zero_stage) {
  const DType dtype = compute_dtype(config);
  const int64_t passes = accumulation_passes(config, mesh.world().size());
  TrafficTable table;
  table.add(MicroBatchTraffic(config, mesh, model).table(), passes);
  if (zero_stage == 3) table.add(part_gathers(mesh, model, params, dtype), passes);
  add_update(table, mesh, params, zero_stage, dtype);
  return table.rows();
}

}  // namespace spanwise
