#include "tests/layouts/layout_training.h"

#include <cstring>

#include "core/host_context.h"
#include "core/optim/clip.h"
#include "parallel/whole_params.h"
#include "tests/testing/small_mixers.h"

namespace spanwise::testing {

namespace {

constexpr int32_t kVocab = 23, kWideVocab = 96;
constexpr double kClipNorm = 0.5;
// At 1e-2 the one-rank run leaves itself by 1e-10 within 18 steps when only its micro-batches change.
constexpr double kLearningRate = 3e-3;

LanguageModelOptions model_options(const Row& row, const Mesh& mesh) {
  const bool wide = row.task.wide;
  const MixerSizes sizes{.attention = {.num_heads = kHeads,
                                       .num_kv_heads = kKvHeads,
                                       .head_dim = wide ? 64 : 8,
                                       .window = row.task.window,
                                       .qk_norm = true,
                                       .output_gate = true},
                         .heads = {.num_heads = kLinearHeads,
                                   .num_value_heads = kLinearValueHeads,
                                   .key_dim = wide ? 64 : 4,
                                   .value_dim = wide ? 64 : 6},
                         // Products of two maps have either sign, and a norm turns a small sum of them about:
                         // in BF16 such gradients tell nothing.
                         .feature_map = wide ? FeatureMap::kElu : FeatureMap::kElementwiseProduct,
                         .chunk = wide ? 64 : 4};
  LanguageModelOptions options{.vocab_size = wide ? kWideVocab : kVocab,
                               .tie_embeddings = row.task.tied,
                               .layers = layers_of(row.task.pattern, 2, row.task.mixer, sizes,
                                                   SwigluOptions{.intermediate = wide ? 320 : 40}),
                               .shared = {.hidden = wide ? 256 : 32,
                                          .norm_eps = 1e-6,
                                          // Large weights, so that every path carries a visible gradient.
                                          .linear = {.init_stddev = wide ? 0.07 : 0.2},
                                          .tensor = {mesh.tensor().size() > 1 ? &mesh.tensor() : nullptr},
                                          .recompute_mixers = row.recompute},
                               .loss_chunk_rows = wide ? 64 : 7,
                               .shard_norms = row.shard_norms,
                               .activation_checkpointing = row.checkpointing};
  std::get<SwigluOptions>(options.layers[0].feed_forward).recompute = row.recompute;
  return options;
}

// Where documents start in each of the kGlobalRows rows. Parts of 29 tokens begin at 15 (2 ranks); 8, 16, 24
// (4 ranks, or 2 of zigzag); 4, 8, … (8, or 4 of zigzag); 2, 4, … (8 of zigzag).
const std::vector<std::vector<int64_t>>& document_starts(Task::Text text) {
  static const std::vector<std::vector<int64_t>> packed = {
      {0, 7, 8, 9, 15, 16, 24, 28}, {0}, {0, 1, 2, 27}, {0, 14, 15, 16, 23}};
  static const std::vector<std::vector<int64_t>> brief = {{0}, {0, 3, 4, 5}, {0, 1, 8}, {0, 2}};
  return text == Task::Text::kPacked ? packed : brief;
}

Batch make_batch(const Task& task, int step, int first_row, int num_rows) {
  const bool packed = task.text == Task::Text::kPacked;
  const int32_t vocab = task.wide ? kWideVocab : kVocab;
  Batch batch{.num_sequences = num_rows, .sequence_length = packed ? 29 : 9};
  const RandomStream tokens(uint64_t(step), "tokens"), labels(uint64_t(step), "labels"),
      ignored(uint64_t(step), "ignored");
  for (int row = first_row; row < first_row + num_rows; ++row) {
    for (const int64_t start : document_starts(task.text)[size_t(row)]) {
      batch.document_starts.push_back((row - first_row) * batch.sequence_length + start);
    }
    const bool none = !packed && row == kGlobalRows - 1;  // a data rank without a target
    for (int64_t t = 0; t < batch.sequence_length; ++t) {
      const uint64_t at = uint64_t(row * batch.sequence_length + t);
      batch.tokens.push_back(int32_t(tokens.below(at, uint64_t(vocab))));
      batch.labels.push_back(none || ignored.below(at, 5) == 0 ? kIgnoreLabel
                                                               : int32_t(labels.below(at, uint64_t(vocab))));
    }
  }
  return batch;
}

SequenceOptions sequence_options(const Row& row) {
  return {.partition = row.partition,
          .parallel = {.exchange = row.exchange,
                       .attention = row.attention,
                       .ranks_per_node = std::max(1, row.mesh.sequence / 2)}};
}

double scalar(Context& ctx, const Tensor& t) {
  const Tensor host = t.to(host_context(ctx));
  return dispatch_float(t.dtype(), [&](auto zero) { return double(host.data<decltype(zero)>()[0]); });
}

bool same_bits(Context& ctx, const Tensor& a, const Tensor& b) {
  Context& host = host_context(ctx);
  return std::memcmp(a.to(host).raw(), b.to(host).raw(), a.bytes()) == 0;
}

std::vector<WholeTensor> gather_whole(const ParamStore& params, const Tensor& flat) {
  std::vector<WholeTensor> tensors;
  for (size_t e = 0; e < params.entries().size(); ++e) {
    const ParamEntry& entry = params.entries()[e];
    const FlatRange all{0, entry.param->global_shape().numel()};
    tensors.push_back({entry.name, gather_piece(params, flat, int(e), all)});
  }
  return tensors;
}

}  // namespace

Context& layout_context() {
  static Context ctx({.num_threads = 1, .poison = true});
  return ctx;
}

LayoutTraining::LayoutTraining(const Row& row, const Mesh& mesh, Context& ctx)
    : row_(row),
      mesh_(mesh),
      ctx_(ctx),
      model_(model_options(row, mesh)),
      params_(ctx, model_,
              {.dtype = row.task.dtype,
               .seed = 5,
               .zero_stage = row.zero_stage,
               .bucket_bytes = 4096,
               .parts = model_.parts()},
              mesh.data_sequence(), mesh.tensor()),
      reducer_(params_),
      optimizer_(params_) {
  if (params_.zero_stage() == 3) model_.set_param_gate(&params_);
}

std::vector<RankBatch> LayoutTraining::load(int step) const {
  const int rows = kGlobalRows / mesh_.data().size() / row_.passes;
  SPANWISE_CHECK(rows * mesh_.data().size() * row_.passes == kGlobalRows, "{} rows do not divide",
                 kGlobalRows);
  std::vector<RankBatch> batches;
  for (int pass = 0; pass < row_.passes; ++pass) {
    const int first = (pass * mesh_.data().size() + mesh_.data().rank()) * rows;
    batches.emplace_back(ctx_, mesh_, sequence_options(row_), make_batch(row_.task, step, first, rows));
  }
  return batches;
}

double LayoutTraining::forward_backward(int step) {
  const std::vector<RankBatch> batches = load(step);
  std::vector<double> targets{0.0}, loss{0.0};
  for (const RankBatch& batch : batches) targets[0] += double(batch.num_targets());
  mesh_.data_sequence().all_reduce("target_count", targets);
  params_.drop_grads();  // no update need have followed the last ones
  for (const RankBatch& batch : batches) {
    if (&batch == &batches.back()) reducer_.expect_last_backward();
    Tape tape(ctx_);
    const Var batch_loss = model_.loss(tape, batch.tokens(), 1.0 / targets[0]);
    loss[0] += scalar(ctx_, batch_loss.value());
    tape.backward(batch_loss);
  }
  reducer_.finish();
  mesh_.data_sequence().all_reduce("loss", loss);
  return loss[0];
}

void LayoutTraining::update(int step) {
  const double norm = optimizer_.grad_norm();
  optimizer_.step(
      {.lr = kLearningRate, .weight_decay = 0.1, .step = step, .grad_scale = clip_scale(norm, kClipNorm)});
}

std::vector<double> LayoutTraining::losses(int num_steps) {
  std::vector<double> losses;
  for (int step = 1; step <= num_steps; ++step) {
    losses.push_back(forward_backward(step));
    update(step);
  }
  return losses;
}

std::vector<WholeTensor> LayoutTraining::values() const {
  return gather_whole(params_, params_.values());
}

std::vector<WholeTensor> LayoutTraining::state() const {
  std::vector<WholeTensor> all = values();
  for (const Tensor* moment : {&optimizer_.first_moment(), &optimizer_.second_moment()}) {
    for (WholeTensor& tensor : gather_whole(params_, *moment)) all.push_back(std::move(tensor));
  }
  return all;
}

void LayoutTraining::set_state(const std::vector<WholeTensor>& state) {
  const Tensor* const buffers[] = {&params_.values(), &optimizer_.first_moment(),
                                   &optimizer_.second_moment()};
  const size_t count = params_.entries().size();
  SPANWISE_CHECK(state.size() == std::size(buffers) * count, "{} tensors for {} parameters", state.size(),
                 count);
  for (size_t i = 0; i < state.size(); ++i) {
    scatter_piece(params_, *buffers[i / count], int(i % count), {0, state[i].values.numel()},
                  state[i].values);
  }
}

std::vector<WholeTensor> LayoutTraining::gradients() {
  const Tensor flat = params_.make_moment();
  for (size_t b = 0; b < params_.buckets().size(); ++b) {
    const ParamBucket& bucket = params_.buckets()[b];
    params_.view(flat, bucket, params_.updated_range(bucket)).copy_from(params_.reduced_grad(int(b)));
  }
  std::vector<WholeTensor> tensors = gather_whole(params_, flat);
  // Every holder of an element against its owner: what replicas would drift apart by.
  const Tensor owners = params_.make_moment();
  for (size_t e = 0; e < tensors.size(); ++e) {
    scatter_piece(params_, owners, int(e), {0, tensors[e].values.numel()}, tensors[e].values);
  }
  for (const ParamEntry& entry : params_.entries()) {
    const ParamBucket& bucket = params_.buckets()[entry.bucket];
    params_.layout().for_each_entry(bucket, params_.updated_range(bucket), [&](int e, FlatRange part) {
      const int64_t begin = params_.entries()[e].offset;
      const FlatRange range{begin + part.begin, begin + part.end};
      const Tensor mine = params_.view(flat, bucket, range), owner = params_.view(owners, bucket, range);
      SPANWISE_CHECK(same_bits(ctx_, mine, owner),
                     "rank {} has other bits of the gradient of {} than its owner", mesh_.world().rank(),
                     params_.entries()[e].name);
    });
  }
  return tensors;
}

}  // namespace spanwise::testing
