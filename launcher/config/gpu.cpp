// What the GPU's kernels do not take of a config's sizes, said before any work and on any machine.

#include "core/ops/gpu_limits.h"
#include "launcher/config/config.h"
#include "launcher/config/derived.h"
#include "launcher/objects.h"

namespace spanwise {

namespace {

using config::ModelConfig;

class GpuLimits {
 public:
  explicit GpuLimits(const RunConfig& config)
      : config_(config), model_(config.model()), dtype_(compute_dtype(config)) {}

  std::vector<std::string> run() {
    if (dtype_ == DType::kF64) return {};  // refused elsewhere
    check_tokens();
    check_row("model.hidden_size", model_.hidden_size());
    if (model_.layer_pattern().find('N') != std::string::npos) check_attention();
    if (model_.layer_pattern().find('L') != std::string::npos) check_linear();
    return std::move(problems_);
  }

 private:
  template <class... Args>
  void problem(fmt::format_string<Args...> format, Args&&... args) {
    problems_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  int64_t rows() const {
    const auto& parallel = config_.parallel();
    const bool halves = parallel.sequence() > 1 && parallel.partition() == config::ParallelConfig::ZIGZAG;
    return config_.train().micro_batch() * (halves ? 2 : 1);
  }

  void check_tokens() {
    const int64_t micro = config_.train().micro_batch(), length = config_.train().sequence_length(),
                  ranks = config_.parallel().sequence();
    if ((length + ranks - 1) / ranks > gpu_limits::kMostTokens / micro) {
      problem(
          "train.micro_batch {} x train.sequence_length {} is more than the {} tokens a rank that kernels "
          "can "
          "count; lower either or raise parallel.sequence",
          micro, length, gpu_limits::kMostTokens);
    }
  }

  void check_row(const char* what, int64_t width) {
    if (gpu_limits::takes_rows(dtype_, width)) return;
    problem("{} is {} and a GPU's norms take rows of up to {} elements in {}{}; lower it or set device: CPU",
            what, width, gpu_limits::most_row_elems(dtype_, true), name_of(dtype_),
            width <= gpu_limits::most_row_elems(dtype_, true)
                ? fmt::format(", of up to {} where they are no multiple of 16 bytes",
                              gpu_limits::most_row_elems(dtype_, false))
                : "");
  }

  void check_heads(const char* path, int64_t heads) {
    if (heads <= gpu_limits::kMostGrid) return;
    problem("{} is {}; a GPU's kernels take at most {}", path, heads, gpu_limits::kMostGrid);
  }

  void check_attention() {
    const int64_t dim = attention_head_dim(model_);
    if (!gpu_limits::kAttentionHeads.takes(dtype_, dim, dim)) {
      problem(
          "model.attention has {} channels per head and softmax attention on a GPU takes {}; set "
          "model.attention.head_dim or model.attention.num_heads, or device: CPU",
          dim, gpu_limits::kAttentionHeads.taken(dtype_));
    }
    check_heads("model.attention.num_heads", model_.attention().num_heads());
    if (rows() > gpu_limits::kMostGrid) {
      problem("train.micro_batch {} makes {} rows and softmax attention on a GPU takes {}; lower it",
              config_.train().micro_batch(), rows(), gpu_limits::kMostGrid);
    }
  }

  void check_linear() {
    const LinearShape shape = linear_shape(model_);
    const auto mixer = model_.linear_mixer();
    const bool delta = mixer == ModelConfig::DELTA_NET || mixer == ModelConfig::GATED_DELTA_NET;
    const gpu_limits::HeadChannels& heads =
        delta ? gpu_limits::kGatedDeltaHeads : gpu_limits::kScalarDecayHeads;
    if (!heads.takes(dtype_, shape.key_dim, shape.value_dim)) {
      problem(
          "model.linear has {} key and {} value channels per head and {} on a GPU takes {}; set {}, or "
          "device: "
          "CPU",
          shape.key_dim, shape.value_dim, ModelConfig::LinearMixer_Name(mixer), heads.taken(dtype_),
          mixer == ModelConfig::MAMBA2
              ? "model.linear.state_size for the keys, model.linear.num_heads or expand for the values"
              : "model.linear.head_dim or num_heads for the keys, model.linear.expand_v for the values");
    }
    check_heads("model.linear's number of value heads", shape.value_heads);
    // Divided over tensor ranks a norm has the rows of each.
    if (heads.takes(dtype_, shape.key_dim, shape.value_dim) &&
        (mixer == ModelConfig::LIGHTNING || mixer == ModelConfig::MAMBA2)) {
      check_row("the width of model.linear's values over all heads (a tensor rank)",
                shape.value_heads / config_.parallel().tensor() * shape.value_dim);
    }
    if (delta && dtype_ == DType::kBF16 && model_.chunk_size() > gpu_limits::kMostGatedDeltaChunk) {
      problem("model.chunk_size is {} and {} on a GPU takes up to {} in BF16; set model.chunk_size: {}",
              model_.chunk_size(), ModelConfig::LinearMixer_Name(mixer), gpu_limits::kMostGatedDeltaChunk,
              gpu_limits::kMostGatedDeltaChunk);
    }
  }

  const RunConfig& config_;
  const ModelConfig& model_;
  const DType dtype_;
  std::vector<std::string> problems_;
};

}  // namespace

std::vector<std::string> gpu_problems(const RunConfig& config) {
  return GpuLimits(config).run();
}

}  // namespace spanwise
