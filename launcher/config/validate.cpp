#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/dispatch.h"
#include "launcher/checkpoint/settings.h"
#include "launcher/config/config.h"
#include "launcher/config/derived.h"
#include "launcher/config/sizes.h"
#include "launcher/runtime.h"

namespace spanwise {

namespace {

using config::ModelConfig;
using config::OptimizerConfig;
using config::TokenizerConfig;
using config::TrainConfig;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

/// Limit of every count, so that products of two fit 64 bits; larger ones are sizes.cpp's.
constexpr int64_t kMost = 1'000'000'000;
/// Each row is some objects.
constexpr int64_t kMostRows = 1'000'000;
/// Each layer is some objects, here and in a plan.
constexpr int64_t kMostLayers = 10'000;
/// Of a mixer, which has a few numbers for each.
constexpr int64_t kMostHeads = 1'000'000;
/// Of an axis, so that the product of three fits.
constexpr int64_t kMostRanks = 1'000'000;
/// The most hardware threads of a machine, and some; the system refuses to start a team of many more.
constexpr int64_t kMostThreads = 1024;

/// Whether the field at `path` is set, in the config or, for a group, anywhere inside it.
bool is_set(const Message& message, std::string_view path) {
  const size_t dot = path.find('.');
  const FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(std::string(path.substr(0, dot)));
  SPANWISE_CHECK(field, "the schema has no field {}", path);
  const auto& reflection = *message.GetReflection();
  if (field->is_repeated()) return reflection.FieldSize(message, field) > 0;
  if (!reflection.HasField(message, field)) return false;
  if (!field->message_type()) return true;
  const Message& group = reflection.GetMessage(message, field);
  if (dot != std::string_view::npos) return is_set(group, path.substr(dot + 1));
  std::vector<const FieldDescriptor*> set;
  group.GetReflection()->ListFields(group, &set);
  return !set.empty();
}

class Validator {
 public:
  Validator(const RunConfig& config, int world_size, std::optional<int64_t> tokenizer_vocab_size,
            ConfigUse use)
      : config_(config),
        model_(config.model()),
        world_size_(world_size),
        vocab_size_(tokenizer_vocab_size),
        use_(use) {}

  std::vector<std::string> run() {
    check_unused();
    check_run();
    check_device();
    if (trains()) check_metrics();
    check_train();
    const size_t before = problems_.size();
    check_layout();
    check_model();
    if (problems_.empty()) problems_ = size_problems(config_, world_size_, vocab_size_);
    if (problems_.size() == before && compute_device(config_) == Device::kCUDA) {
      for (std::string& sentence : gpu_problems(config_)) problems_.push_back(std::move(sentence));
    }
    check_data();
    if (trains()) check_optimizer();
    if (trains()) check_checkpoint();
    for (const std::string& text : accept_changed_problems(config_)) problem("{}", text);
    return std::move(problems_);
  }

 private:
  bool trains() const { return use_ != ConfigUse::kInference; }

  template <class... Args>
  void problem(fmt::format_string<Args...> format, Args&&... args) {
    problems_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  bool at_least(int64_t low, const char* path, int64_t value, int64_t most = kMost) {
    if (value < low) problem("{} is {}; it must be at least {}", path, value, low);
    if (value > most) problem("{} is {}; it must be at most {}", path, value, most);
    return value >= low && value <= most;
  }

  /// Comparisons are written so that NaN is refused, too.
  bool positive(const char* path, double value) {
    const bool ok = value > 0 && std::isfinite(value);
    if (!ok) problem("{} is {}; it must be above 0 and finite", path, value);
    return ok;
  }
  bool factor(const char* path, double value) {
    const bool ok = value > 0 && value <= kMost;
    if (!ok) problem("{} is {}; it must be above 0 and at most {}", path, value, kMost);
    return ok;
  }
  void not_negative(const char* path, double value) {
    if (!(value >= 0 && std::isfinite(value)))
      problem("{} is {}; it must be 0 or above and finite", path, value);
  }
  void fraction(const char* path, double value, bool with_one) {
    if (value >= 0 && (value < 1 || (with_one && value == 1))) return;
    problem("{} is {}; it must be from 0 to {}1", path, value, with_one ? "" : "below ");
  }

  void check_unused() {
    for (const UnusedField& field : unused_fields(config_)) {
      if (!trains() && field.path.starts_with("optimizer.")) continue;
      if (is_set(config_, field.path)) {
        problem("{0} has no effect: {1}; remove it, or add --set {0}=", field.path, field.reason);
      };
    }
  }

  void check_run() {
    if (config_.run().dir().empty())
      problem("run.dir is empty; name the run's directory, e.g. run {{ dir: \"runs/first\" }}");
    if (trains()) at_least(1, "run.log_every", config_.run().log_every());
  }

  void check_device() {
    const auto precision = config_.train().precision();
    const bool on_gpu = compute_device(config_) == Device::kCUDA;
    if (on_gpu && !kHasCuda && use_ != ConfigUse::kPlan) {
      problem("device CUDA is not in this build; set device: CPU or AUTO");
    } else if (on_gpu && precision == TrainConfig::F64) {
      problem("train.precision F64 is for the CPU; set train.precision: F32 or BF16, or device: CPU");
    } else if (!on_gpu && precision == TrainConfig::BF16) {
      problem("train.precision BF16 needs a GPU and this run computes on the CPU; set train.precision: F32");
    }
  }

  void check_metrics() {
    const int64_t steps = config_.metrics().trace_steps();
    if (!at_least(0, "metrics.trace_steps", steps) || steps == 0) return;
    if (world_size_ == 1 || compute_device(config_) == Device::kCPU) {
      problem(
          "metrics.trace_steps is {} and there is nothing to time: it times collectives between several "
          "GPUs; "
          "set metrics.trace_steps: 0",
          steps);
    }
  }

  void check_train() {
    const auto& train = config_.train();
    at_least(1, "train.sequence_length", train.sequence_length());
    at_least(0, "train.loss_chunk_tokens", train.loss_chunk_tokens());
    at_least(0, "train.eval_sequences", train.eval_sequences());
    at_least(0, "train.threads", train.threads(), kMostThreads);
    if (!trains()) return;
    at_least(1, "train.steps", train.steps());
    if (at_least(0, "train.eval_every", train.eval_every()) && train.eval_every() > 0 &&
        config_.data().validation().empty()) {
      problem(
          "train.eval_every is {} and data.validation is empty; name a held-out dataset or set "
          "train.eval_every: 0",
          train.eval_every());
    }
    at_least(1, "train.sample_tokens", train.sample_tokens());
    check_recomputation();
  }

  void check_recomputation() {
    const auto& train = config_.train();
    const int64_t mlps = train.recompute_mlp_layers();
    if (mlps < 0 || mlps > model_.num_layers()) {
      problem("train.recompute_mlp_layers is {}; it must be from 0 to model.num_layers, {}", mlps,
              model_.num_layers());
    }
    if (train.recompute_mixers() && model_.layer_pattern().find('L') == std::string::npos) {
      problem(
          "train.recompute_mixers is true and model.layer_pattern '{}' has no linear layer; set it to false",
          model_.layer_pattern());
    }
    if (train.activation_checkpointing() && (train.recompute_mixers() || mlps > 0)) {
      problem(
          "train.activation_checkpointing recomputes whole blocks; leave out train.recompute_mixers and "
          "train.recompute_mlp_layers");
    }
  }

  void check_layout() {
    const auto& parallel = config_.parallel();
    const auto& train = config_.train();
    bool ok = at_least(0, "parallel.data", parallel.data(), kMostRanks);
    for (const auto& [path, size] : {std::pair{"parallel.sequence", parallel.sequence()},
                                     std::pair{"parallel.tensor", parallel.tensor()}}) {
      if (!at_least(1, path, size, kMostRanks)) ok = false;
    }
    if (trains() && (parallel.zero_stage() < 0 || parallel.zero_stage() > 3)) {
      problem("parallel.zero_stage is {}; it must be from 0 to 3", parallel.zero_stage());
    }
    if (!(parallel.timeout_seconds() >= 0)) {
      problem("parallel.timeout_seconds is {}; it must be 0 or above", parallel.timeout_seconds());
    }
    if (trains() && !at_least(1, "train.global_batch", train.global_batch())) ok = false;
    if (!at_least(1, "train.micro_batch", train.micro_batch(), kMostRows)) ok = false;
    if (!ok) return;
    const int64_t shared = parallel.sequence() * parallel.tensor();
    if (parallel.data() == 0 && world_size_ % shared != 0) {
      problem(
          "parallel.sequence {} x parallel.tensor {} does not divide the number of ranks, {}; start {} ranks",
          parallel.sequence(), parallel.tensor(), world_size_, (world_size_ / shared + 1) * shared);
      return;
    }
    const int64_t data = data_ranks(parallel, world_size_);
    if (data * parallel.sequence() * parallel.tensor() != world_size_) {
      problem(
          "parallel.data {} x parallel.sequence {} x parallel.tensor {} is not the number of ranks, {}; "
          "start {} ranks or set parallel.data: 0",
          data, parallel.sequence(), parallel.tensor(), world_size_,
          data * parallel.sequence() * parallel.tensor());
      return;
    }
    if (trains()) check_batch(data);
    check_divided_heads();
  }

  /// `heads` over the `ranks` of an axis; `shared`: several ranks may hold the same head.
  void check_division(const char* path, int64_t heads, const char* axis, int64_t ranks, bool shared) {
    if (heads < 1 || heads % ranks == 0 || (shared && ranks % heads == 0)) return;
    problem("{} {} cannot be divided over {} {}; set {}: {}", path, heads, axis, ranks, axis,
            largest_divisor(heads, ranks));
  }

  void check_divided_heads() {
    const auto& parallel = config_.parallel();
    const int64_t tensor = parallel.tensor(), sequence = parallel.sequence();
    const auto& attention = model_.attention();
    const auto& linear = model_.linear();
    if (model_.layer_pattern().find('N') != std::string::npos) {
      check_division("model.attention.num_heads", attention.num_heads(), "parallel.tensor", tensor, false);
      check_division("model.attention.num_kv_heads", attention_kv_heads(attention), "parallel.tensor", tensor,
                     true);
      if (parallel.attention() == config::AttentionExchange::ULYSSES && attention.num_heads() % tensor == 0) {
        check_division("model.attention.num_heads (a tensor rank)", attention.num_heads() / tensor,
                       "parallel.sequence", sequence, false);
        check_division("model.attention.num_kv_heads (a tensor rank)",
                       std::max<int64_t>(attention_kv_heads(attention) / tensor, 1), "parallel.sequence",
                       sequence, true);
      }
    }
    if (model_.layer_pattern().find('L') != std::string::npos) {
      const bool mamba2 = model_.linear_mixer() == ModelConfig::MAMBA2;
      const int64_t value_heads =
          linear.num_value_heads() > 0 && !mamba2 ? linear.num_value_heads() : linear.num_heads();
      const int64_t key_heads = mamba2 ? linear.num_groups() : linear.num_heads();
      check_division(mamba2 ? "model.linear.num_groups" : "model.linear.num_heads", key_heads,
                     "parallel.tensor", tensor, true);
      check_division("model.linear's value heads", value_heads, "parallel.tensor", tensor, false);
      if (parallel.exchange() == config::StateExchange::HEAD_SPLIT && value_heads % tensor == 0) {
        check_division("model.linear's value heads (a tensor rank)", value_heads / tensor,
                       "parallel.sequence", sequence, false);
      }
    }
    if (parallel.ranks_per_node() != 0 &&
        (parallel.ranks_per_node() < 1 || sequence % parallel.ranks_per_node() != 0)) {
      problem("parallel.ranks_per_node {} does not divide parallel.sequence {}", parallel.ranks_per_node(),
              sequence);
    }
  }

  void check_batch(int64_t data) {
    const int64_t batch = config_.train().global_batch(), micro = config_.train().micro_batch();
    if (batch % (micro * data) == 0) return;
    const int64_t next = (batch / (micro * data) + 1) * micro * data;
    problem(
        "train.global_batch {} is not a multiple of train.micro_batch {} x {} data ranks; "
        "set train.global_batch: {}{}",
        batch, micro, data, next,
        batch % data == 0 ? fmt::format(" or train.micro_batch: {}", largest_divisor(batch / data, micro))
                          : "");
  }

  /// The largest divisor of `n` that is at most `limit`.
  static int64_t largest_divisor(int64_t n, int64_t limit) {
    int64_t divisor = std::min(n, limit);
    while (n % divisor != 0) --divisor;
    return divisor;
  }

  void check_model() {
    at_least(0, "model.vocab_size", model_.vocab_size());
    positive("model.norm_eps", model_.norm_eps());
    positive("model.initializer_range", model_.initializer_range());
    at_least(1, "model.chunk_size", model_.chunk_size());
    at_least(0, "model.intermediate_size", model_.intermediate_size());
    factor("model.hidden_ratio", model_.hidden_ratio());
    check_pattern();
    if (!at_least(1, "model.hidden_size", model_.hidden_size())) return;
    if (model_.layer_pattern().find('N') != std::string::npos) check_attention();
    if (model_.layer_pattern().find('L') == std::string::npos) return;
    if (model_.linear_mixer() == ModelConfig::MAMBA2) {
      check_mamba2();
    } else {
      check_linear();
    }
  }

  void check_pattern() {
    const std::string& pattern = model_.layer_pattern();
    const int64_t layers = model_.num_layers(), length = int64_t(pattern.size());
    const bool ok = at_least(1, "model.num_layers", layers, kMostLayers);
    if (pattern.empty() || pattern.find_first_not_of("LN") != std::string::npos) {
      problem(
          "model.layer_pattern is \"{}\"; it must be letters L (model.linear_mixer) and N (softmax "
          "attention), "
          "e.g. \"LLLN\"",
          pattern);
    } else if (ok && layers % length != 0) {
      problem(
          "model.num_layers {} is not a multiple of the {} layers of model.layer_pattern \"{}\"; "
          "set model.num_layers: {}",
          layers, length, pattern, (layers / length + 1) * length);
    }
  }

  /// Whether heads split the hidden size, where `head_dim` leaves it to them. `group`: "model.attention".
  bool check_head_dim(const char* group, int64_t heads, int64_t head_dim) {
    if (!at_least(0, fmt::format("{}.head_dim", group).c_str(), head_dim)) return false;
    if (head_dim > 0 || model_.hidden_size() % heads == 0) return true;
    problem("model.hidden_size {} is not a multiple of {}.num_heads {}; change either or set {}.head_dim",
            model_.hidden_size(), group, heads, group);
    return false;
  }

  void check_attention() {
    const auto& attention = model_.attention();
    at_least(0, "model.attention.window", attention.window());
    positive("model.attention.rope_theta", attention.rope_theta());
    if (!at_least(1, "model.attention.num_heads", attention.num_heads(), kMostHeads)) return;
    if (at_least(0, "model.attention.num_kv_heads", attention.num_kv_heads(), kMostHeads) &&
        attention.num_heads() % attention_kv_heads(attention) != 0) {
      problem(
          "model.attention.num_heads {} is not a multiple of model.attention.num_kv_heads {}; "
          "set model.attention.num_kv_heads: {}",
          attention.num_heads(), attention.num_kv_heads(),
          largest_divisor(attention.num_heads(), attention.num_kv_heads()));
    }
    if (check_head_dim("model.attention", attention.num_heads(), attention.head_dim())) {
      check_even("model.attention", attention_head_dim(model_));
    }
  }

  void check_even(const char* group, int64_t head_dim) {
    if (head_dim % 2 == 0) return;
    problem(
        "{} has {} channels per head and rotary positions need an even number; set {}.head_dim or "
        "{}.num_heads",
        group, head_dim, group, group);
  }

  void check_conv_size() {
    const int64_t size = model_.linear().conv_size();
    if (size < 2 || size > 4)
      problem("model.linear.conv_size is {}; short convolutions of 2, 3 and 4 tokens exist", size);
  }

  void check_linear() {
    const auto& linear = model_.linear();
    check_conv_size();
    if (!at_least(1, "model.linear.num_heads", linear.num_heads(), kMostHeads)) return;
    if (at_least(0, "model.linear.num_value_heads", linear.num_value_heads(), kMostHeads) &&
        linear.num_value_heads() % linear.num_heads() != 0) {
      problem(
          "model.linear.num_value_heads {} is not a multiple of model.linear.num_heads {}; "
          "set model.linear.num_value_heads: {}",
          linear.num_value_heads(), linear.num_heads(),
          (linear.num_value_heads() / linear.num_heads() + 1) * linear.num_heads());
    }
    const bool has_key_dim = check_head_dim("model.linear", linear.num_heads(), linear.head_dim());
    if (has_key_dim && model_.linear_mixer() == ModelConfig::RETENTION) {
      check_even("model.linear", linear_shape(model_).key_dim);
    }
    if (!factor("model.linear.expand_v", linear.expand_v()) || !has_key_dim) return;
    const LinearShape shape = linear_shape(model_);
    const double value_dim = shape.key_dim * linear.expand_v();
    if (value_dim < 1 || std::abs(value_dim - shape.value_dim) > 1e-9 * value_dim) {
      problem(
          "model.linear.expand_v {} x {} key channels per head is not a whole number of value channels; "
          "set model.linear.expand_v: {}",
          linear.expand_v(), shape.key_dim, std::ceil(value_dim) / double(shape.key_dim));
    }
  }

  void check_mamba2() {
    const auto& linear = model_.linear();
    check_conv_size();
    at_least(1, "model.linear.state_size", linear.state_size());
    const bool has_heads = at_least(1, "model.linear.num_heads", linear.num_heads(), kMostHeads);
    if (at_least(1, "model.linear.expand", linear.expand()) && has_heads &&
        model_.hidden_size() * linear.expand() % linear.num_heads() != 0) {
      problem(
          "model.hidden_size {} x model.linear.expand {} is not a multiple of model.linear.num_heads {}; "
          "change one of them",
          model_.hidden_size(), linear.expand(), linear.num_heads());
    }
    if (at_least(1, "model.linear.num_groups", linear.num_groups(), kMostHeads) && has_heads &&
        linear.num_heads() % linear.num_groups() != 0) {
      problem(
          "model.linear.num_heads {} is not a multiple of model.linear.num_groups {}; "
          "set model.linear.num_groups: {}",
          linear.num_heads(), linear.num_groups(), largest_divisor(linear.num_heads(), linear.num_groups()));
    }
  }

  void check_data() {
    const auto& data = config_.data();
    if (data.train().empty() && trains()) {
      problem(
          "data.train is empty; name a dataset made by `spanwise data prepare`, "
          "e.g. data {{ train {{ path: \"runs/data/train\" }} }}");
    }
    for (int i = 0; trains() && i < data.train_size(); ++i) {
      if (data.train(i).path().empty()) {
        problem("data.train[{}].path is empty; name the dataset without .bin and .idx", i);
      }
      positive(fmt::format("data.train[{}].weight", i).c_str(), data.train(i).weight());
    }
    const auto& tokenizer = data.tokenizer();
    if (tokenizer.kind() == TokenizerConfig::SENTENCEPIECE && tokenizer.model().empty()) {
      problem("data.tokenizer.model is empty and data.tokenizer.kind is SENTENCEPIECE; name the .model file");
    }
    if (vocab_size_ && model_.vocab_size() > 0 && model_.vocab_size() < *vocab_size_) {
      problem(
          "model.vocab_size {} is below the {} tokens of the tokenizer ({}); set model.vocab_size: 0 or at "
          "least {}",
          model_.vocab_size(), *vocab_size_,
          tokenizer.kind() == TokenizerConfig::BYTES ? "data.tokenizer.kind BYTES"
                                                     : "data.tokenizer.model " + tokenizer.model(),
          *vocab_size_);
    }
  }

  void check_optimizer() {
    const auto& optimizer = config_.optimizer();
    positive("optimizer.learning_rate", optimizer.learning_rate());
    fraction("optimizer.min_learning_rate_ratio", optimizer.min_learning_rate_ratio(), true);
    fraction("optimizer.beta1", optimizer.beta1(), false);
    fraction("optimizer.beta2", optimizer.beta2(), false);
    positive("optimizer.eps", optimizer.eps());
    not_negative("optimizer.weight_decay", optimizer.weight_decay());
    not_negative("optimizer.clip_norm", optimizer.clip_norm());
    check_schedule();
  }

  /// Only a decay of given length can contradict the warm-up; any run may end while the rate still rises.
  void check_schedule() {
    const auto& optimizer = config_.optimizer();
    bool ok = at_least(0, "optimizer.warmup_steps", optimizer.warmup_steps());
    ok &= at_least(0, "optimizer.decay_steps", optimizer.decay_steps());
    ok &= at_least(0, "optimizer.schedule_steps", optimizer.schedule_steps());
    if (!ok || optimizer.schedule() != OptimizerConfig::WSD || optimizer.decay_steps() == 0) return;
    const int64_t needed = optimizer.warmup_steps() + optimizer.decay_steps();
    if (needed <= schedule_steps(config_)) return;
    problem(
        "optimizer.warmup_steps {} + optimizer.decay_steps {} is more than the {} steps of {}; "
        "lower them or set optimizer.schedule_steps: {}",
        optimizer.warmup_steps(), optimizer.decay_steps(), schedule_steps(config_),
        optimizer.schedule_steps() > 0 ? "optimizer.schedule_steps" : "train.steps", needed);
  }

  void check_checkpoint() {
    at_least(0, "checkpoint.every", config_.checkpoint().every());
    const double minutes = config_.checkpoint().every_minutes();
    if (!(minutes >= 0 && std::isfinite(minutes)))
      problem("checkpoint.every_minutes is {}; it must be 0 (never by time) or above, and finite", minutes);
    at_least(0, "checkpoint.keep_last", config_.checkpoint().keep_last());
  }

  const RunConfig& config_;
  const ModelConfig& model_;
  const int world_size_;
  const std::optional<int64_t> vocab_size_;
  const ConfigUse use_;
  std::vector<std::string> problems_;
};

}  // namespace

std::vector<std::string> config_problems(const RunConfig& config, int world_size,
                                         std::optional<int64_t> tokenizer_vocab_size, ConfigUse use) {
  return Validator(config, world_size, tokenizer_vocab_size, use).run();
}

void validate(const RunConfig& config, int world_size, std::optional<int64_t> tokenizer_vocab_size,
              ConfigUse use) {
  const std::vector<std::string> problems = config_problems(config, world_size, tokenizer_vocab_size, use);
  if (problems.empty()) return;
  std::string text;
  for (const std::string& problem : problems) text += (text.empty() ? "" : "\n") + problem;
  throw UserError(text);
}

}  // namespace spanwise
