#include <algorithm>

#include "launcher/block_sizes.h"
#include "launcher/build_model.h"
#include "launcher/config_derived.h"
#include "launcher/exchange_sizes.h"
#include "launcher/plan.h"

namespace spanwise {

namespace {

LocalRows local_rows(const RunConfig& config, const Mesh& mesh) {
  const int64_t batch = config.train().micro_batch(), length = config.train().sequence_length();
  if (mesh.sequence().size() == 1) return {batch, length, length, std::nullopt};
  const SequenceOptions options = sequence_options(config);
  const SequencePartition p(options.partition, mesh.sequence().size(), length);
  return {.rows = batch * p.slots(),
          .row_tokens = p.capacity(),
          .num_positions = p.capacity() * p.slots(),
          .spans = LocalRows::Spans{whole_documents(p, mesh.sequence().rank(), batch), options.parallel}};
}

/// Adds a checkpointed block to the tape; returns the op of its results. `peak` grows to the most elements of
/// its two forwards and its backward.
int add_checkpointed(SizeTape& tape, const BlockSizes& blocks, MixerKind kind, bool first, int64_t& peak) {
  const int64_t stream = blocks.stream();
  SizeTape again(SizeTape::Pass::kRecomputation);
  const int sum = blocks.add(again, kind, again.add({}), first);
  peak = std::max(peak, tape.live() + again.unrecorded_peak());
  // The block's results stay, and what it received, of which the MLP's sum is a result; in backward all of
  // it is there once more, beside the stream's gradient.
  const int64_t received = again.received() - (blocks.divided() ? stream : 0);
  const int results = tape.add({.value = 2 * stream, .saved = received});
  peak = std::max(peak, tape.live() - again.awaited() + stream + again.backward_peak(sum) + stream);
  return results;
}

}  // namespace

int64_t plan_activations(const RunConfig& config, const Mesh& mesh, const LanguageModel& model) {
  const LanguageModelOptions& o = model.options();
  const BlockSizes blocks(o, local_rows(config, mesh), compute_dtype(config));
  const int64_t stream = blocks.stream();
  // The loss holds the gradients of the stream and of the head, and a chunk's logits while it runs.
  const int64_t vocabulary = divide_unevenly(o.mixer.tensor, o.vocab_size, "model.vocab_size").size();
  const DType dtype = compute_dtype(config);
  const int64_t sum_elems = int64_t(size_of(accumulation_dtype(dtype)) / size_of(dtype));
  const int64_t loss = blocks.all_rows() + vocabulary * o.mixer.hidden * sum_elems,
                logits = std::min(loss_chunk_tokens(config, o.vocab_size), blocks.tokens()) * vocabulary;

  SizeTape tape;
  int residual = tape.add({.value = stream, .saved = blocks.divided() ? blocks.all_rows() : 0});
  int64_t peak = 0;
  for (int64_t layer = 0; layer < o.num_layers; ++layer) {
    const MixerKind kind = model.mixer_of(layer);
    residual = o.activation_checkpointing ? add_checkpointed(tape, blocks, kind, layer == 0, peak)
                                          : blocks.add(tape, kind, residual, layer == 0);
  }
  const int sum = tape.add({stream, {residual}});
  blocks.enter(tape, tape.add({stream, {sum}, blocks.stream_tokens()}));
  peak = std::max({peak, tape.forward_peak(), tape.live() + loss + logits, tape.backward_peak() + stream});
  return peak * int64_t(size_of(dtype));
}

}  // namespace spanwise
