// What the GPU's kernels do not take of a config's sizes, said before any work and on any machine.

#include "core/ops/gpu_limits.h"
#include "launcher/config/checks.h"
#include "launcher/config/layer_list.h"
#include "launcher/config/layers.h"
#include "launcher/objects.h"

namespace spanwise {

namespace {

class GpuLimits {
 public:
  GpuLimits(const RunConfig& config, Problems& problems)
      : config_(config), dtype_(compute_dtype(config)), problems_(problems) {}

  void check() {
    if (dtype_ == DType::kF64) return;  // refused elsewhere
    check_tokens();
    check_row("model.hidden_size", config_.model().hidden_size());
    bool has_softmax = false;
    int64_t most_chunk = 0;
    for (const UsedLayer& layer : used_layers(config_.model())) {
      const MixerRow* row = mixer_row(*layer.config);
      if (!row) continue;
      check_mixer(layer, *row);
      has_softmax |= !row->is_linear;
      if (row->most_bf16_chunk > 0 && (most_chunk == 0 || row->most_bf16_chunk < most_chunk))
        most_chunk = row->most_bf16_chunk;
    }
    if (has_softmax) check_rows();
    if (most_chunk > 0) check_chunk(most_chunk);
  }

 private:
  int64_t rows() const {
    const auto& parallel = config_.parallel();
    const bool halves = parallel.sequence() > 1 && parallel.partition() == config::ParallelConfig::ZIGZAG;
    return config_.train().micro_batch() * (halves ? 2 : 1);
  }

  void check_tokens() {
    const int64_t micro = config_.train().micro_batch(), length = config_.train().sequence_length(),
                  ranks = config_.parallel().sequence();
    if ((length + ranks - 1) / ranks <= gpu_limits::kMostTokens / micro) return;
    problems_.add(
        "train.micro_batch {} x train.sequence_length {} is more than the {} tokens a rank that kernels can "
        "count; "
        "lower either or raise parallel.sequence",
        micro, length, gpu_limits::kMostTokens);
  }

  void check_row(const std::string& what, int64_t width) {
    if (gpu_limits::takes_rows(dtype_, width)) return;
    problems_.add(
        "{} is {} and a GPU's norms take rows of up to {} elements in {}{}; lower it or set device: CPU",
        what, width, gpu_limits::most_row_elems(dtype_, true), name_of(dtype_),
        width <= gpu_limits::most_row_elems(dtype_, true)
            ? fmt::format(", of up to {} where they are no multiple of 16 bytes",
                          gpu_limits::most_row_elems(dtype_, false))
            : "");
  }

  void check_heads(const std::string& path, int64_t heads) {
    if (heads <= gpu_limits::kMostGrid) return;
    problems_.add("{} is {}; a GPU's kernels take at most {}", path, heads, gpu_limits::kMostGrid);
  }

  void check_rows() {
    if (rows() <= gpu_limits::kMostGrid) return;
    problems_.add("train.micro_batch {} makes {} rows and softmax attention on a GPU takes {}; lower it",
                  config_.train().micro_batch(), rows(), gpu_limits::kMostGrid);
  }

  void check_chunk(int64_t most) {
    const int64_t chunk = config_.model().chunk_size();
    if (dtype_ != DType::kBF16 || chunk <= most) return;
    problems_.add(
        "model.chunk_size is {} and the delta rule on a GPU takes up to {} in BF16; set model.chunk_size: {}",
        chunk, most, most);
  }

  void check_mixer(const UsedLayer& layer, const MixerRow& row) {
    const MixerHeads heads = row.heads(config_.model(), *layer.config);
    const std::string path = layer.path + "." + mixer_name(*layer.config);
    const int64_t keys = heads.keys.channels, values = heads.values.channels;
    const bool taken = row.gpu_heads.takes(dtype_, keys, values);
    if (!taken) {
      problems_.add("{} has {} per head and on a GPU it takes {}; set {}, or device: CPU", path,
                    keys == values ? fmt::format("{} channels", keys)
                                   : fmt::format("{} key and {} value channels", keys, values),
                    row.gpu_heads.taken(dtype_), row.sized_by);
    }
    check_heads(path + "." + heads.values.field, heads.values.count);
    // Divided over tensor ranks a norm has the rows of each.
    if (taken && row.norm_over_heads) {
      check_row(fmt::format("the width of {}'s values over all heads (a tensor rank)", path),
                heads.values.count / config_.parallel().tensor() * values);
    }
  }

  const RunConfig& config_;
  const DType dtype_;
  Problems& problems_;
};

}  // namespace

void check_gpu(const RunConfig& config, Problems& problems) {
  GpuLimits(config, problems).check();
}

}  // namespace spanwise
