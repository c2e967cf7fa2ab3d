#include <algorithm>
#include <functional>

#include "core/ops/linear.h"
#include "launcher/block_sizes.h"
#include "launcher/config/derived.h"
#include "launcher/exchange_sizes.h"
#include "launcher/objects.h"
#include "launcher/plan.h"
#include "launcher/runtime.h"

namespace spanwise {

namespace {

LocalRows local_rows(const RunConfig& config, const Mesh& mesh) {
  const int64_t batch = config.train().micro_batch(), length = config.train().sequence_length();
  if (mesh.sequence().size() == 1) return {batch, length, length, std::nullopt};
  const SequenceOptions options = sequence_options(config, mesh);
  const SequencePartition p(options.partition, mesh.sequence().size(), length);
  return {.rows = batch * p.slots(),
          .row_tokens = p.capacity(),
          .num_positions = p.capacity() * p.slots(),
          .spans = LocalRows::Spans{whole_documents(p, mesh.sequence().rank(), batch), options.parallel}};
}

/// Adds a checkpointed block to the tape; returns the ops of its results. `peak` grows to the most elements
/// of its two forwards and its backward, with the gradients of parameters that are there in this.
SizedStream add_checkpointed(SizeTape& tape, const BlockSizes& blocks, MixerKind kind, const SizedStream& in,
                             int64_t layer, int64_t gradients, int64_t& peak) {
  const int64_t stream = blocks.stream();
  SizeTape again(SizeTape::Pass::kRecomputation);
  const int residual = again.add({});
  const SizedStream out =
      blocks.add(again, kind, {in.delta < 0 ? -1 : again.add({.reads_result = true}), residual}, layer);
  peak = std::max(peak, tape.live() + again.unrecorded_peak());
  // What the block received stays, of which the MLP's sum is a result. In backward all of it is there once
  // more, beside the stream's gradient; of the results, which nobody reads any more, only those computed
  // again.
  const int64_t result = blocks.divided() ? stream : 0;
  const int64_t received = again.received() - result;
  std::vector<int> inputs{in.residual};
  if (in.delta >= 0) inputs.push_back(in.delta);
  const int delta = tape.add({.value = stream, .beside = inputs, .reads = inputs, .saved = received});
  const int sum = tape.add({.value = stream, .beside = inputs, .reads = inputs});
  peak = std::max(peak, tape.live() - 2 * stream - (again.awaited() - result) + stream +
                            again.backward_peak(out.residual) + stream + gradients);
  return {delta, sum};
}

/// The largest part of a weight's gradient that choosing an algorithm for it takes beside it, once.
int64_t trial_bytes(const ParamLayout& params, Device device, int64_t tokens) {
  int64_t most = 0;
  for (const ParamEntry& entry : params.entries()) {
    const Shape& shape = entry.param->shape;
    if (shape.num_dims() == 2) most = std::max(most, linear_trial_bytes(device, tokens, shape[0], shape[1]));
  }
  return most;
}

/// In elements. `gradients`: of parameters, in the backward of a part of the model (GradientSizes::during).
int64_t most_held(const RunConfig& config, const Mesh& mesh, const LanguageModel& model,
                  const ParamLayout& params, const std::function<int64_t(int)>& gradients) {
  const FlatModel o = flat_model(model.options());
  const DType dtype = compute_dtype(config);
  const ComputeKind compute{compute_device(config), dtype};
  const BlockSizes blocks(o, local_rows(config, mesh), compute);
  const int64_t stream = blocks.stream();
  // The loss holds the gradients of the stream and of the head, and a chunk's logits while it runs.
  const int64_t vocabulary = divide_unevenly(o.mixer.tensor, o.vocab_size, "model.vocab_size").size();
  const int64_t loss = blocks.all_rows() + compute.precise(vocabulary * o.mixer.hidden),
                logits = std::min(loss_chunk_tokens(config, o.vocab_size), blocks.tokens()) * vocabulary;

  SizeTape tape;
  // Behind a part's ops: what its backward begins with.
  const auto end_part = [&](int part, bool last) {
    tape.add({.arrives = gradients(part) - (last ? 0 : gradients(part + 1))});
  };
  const int norm = 1 + int(o.num_layers), head = norm + 1;
  SizedStream residual{-1, tape.add({.value = stream})};
  end_part(0, false);
  int64_t peak = 0;
  for (int64_t layer = 0; layer < o.num_layers; ++layer) {
    const MixerKind kind = o.mixer_of(layer);
    const int part = 1 + int(layer);
    residual = o.activation_checkpointing
                   ? add_checkpointed(tape, blocks, kind, residual, layer, gradients(part), peak)
                   : blocks.add(tape, kind, residual, layer);
    end_part(part, false);
  }
  blocks.enter(tape, blocks.norm(tape, blocks.sum(tape, residual)));
  end_part(norm, true);
  return compute.elems_of(linear_workspace_bytes(compute.device) +
                          trial_bytes(params, compute.device, blocks.tokens())) +
         std::max({peak, tape.forward_peak(), tape.live() + loss + logits,
                   tape.live() + loss + gradients(head), tape.backward_peak() + stream});
}

}  // namespace

PlannedActivations plan_activations(const RunConfig& config, const Mesh& mesh, const LanguageModel& model,
                                    const ParamLayout& params, const GradientSizes& gradients) {
  const auto element_bytes = int64_t(size_of(compute_dtype(config)));
  const auto none = [](int) { return int64_t{0}; };
  const auto some = [&](int part) { return gradients.during(part) / element_bytes; };
  return {.bytes = most_held(config, mesh, model, params, none) * element_bytes,
          .with_gradients = most_held(config, mesh, model, params, some) * element_bytes};
}

}  // namespace spanwise
