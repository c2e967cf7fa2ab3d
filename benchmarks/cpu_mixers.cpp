// Forward + backward of every mixer on the CPU in fp32, at equal token count: time per token from T = 2,048
// to 65,536, and peak memory of one sequence of T tokens. Prints two Markdown tables.
//
//   build/bin/cpu_mixers [--tokens 65536] [--repeat 3] [--threads N] [--only NAME]
//
// A linear mixer's time per token is the same at every T and its memory grows linearly; softmax stands beside
// them.

#include <getopt.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "core/blas_core.h"
#include "models/layer_options.h"
#include "parallel/param_store.h"

namespace spanwise {
namespace {

constexpr int64_t kHidden = 256;
constexpr int64_t kLengths[] = {2048, 4096, 8192, 16384, 32768, 65536};

struct Settings {
  int64_t tokens = 65536;
  int repeat = 3;
  int threads = 1;
  std::string only;
};

constexpr int64_t kChunk = 64;
const SharedOptions kShared{.hidden = kHidden, .norm_eps = 1e-6, .linear = {.init_stddev = 0.02}};
const LinearHeads kHeads{.num_heads = 4, .num_value_heads = 4, .key_dim = 64, .value_dim = 64};
const MixerOptions kMixers[] = {
    AttentionOptions{.num_heads = 4, .num_kv_heads = 4, .head_dim = 64, .rope_theta = 10000},
    LinearAttentionOptions{.heads = kHeads, .feature_map = FeatureMap::kElementwiseProduct, .chunk = kChunk},
    LightningOptions{.heads = kHeads, .output_gate = true, .chunk = kChunk},
    RetentionOptions{.heads = kHeads, .rope_theta = 10000, .output_gate = true, .chunk = kChunk},
    Mamba2Options{.num_heads = 8,
                  .num_groups = 1,
                  .state_size = 64,
                  .head_dim = 64,
                  .conv_size = 4,
                  .conv_bias = true,
                  .chunk = kChunk},
    DeltaNetOptions{.heads = kHeads, .conv_size = 4, .output_gate = true, .chunk = kChunk},
    GatedDeltaNetOptions{.heads = kHeads, .conv_size = 4, .output_gate = true, .chunk = kChunk}};

/// One mixer over batch x length tokens, kept so that shapes can be timed in turn.
class Case {
 public:
  Case(const MixerOptions& mixer, int64_t batch, int64_t length, Context& ctx)
      : ctx_(ctx),
        tokens_(batch * length),
        mixer_(make_mixer(mixer, kShared, {.layer = 1, .num_layers = 8})),
        params_(ctx, *mixer_, DType::kF32, 1),
        layout_(batch, length),
        x_(normals({batch, length, kHidden}, "x")),
        dy_(normals({batch, length, kHidden}, "dy")) {}

  double run_seconds() const {
    const auto start = std::chrono::steady_clock::now();
    const Var input(x_, true);
    Tape tape(ctx_);
    const Var y = mixer_->forward(tape, input, {.layout = layout_});
    tape.backward({y}, {dy_});
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  int64_t tokens() const { return tokens_; }

 private:
  Tensor normals(const Shape& shape, const char* name) const {
    const Tensor t = Tensor::empty(ctx_, shape, DType::kF32);
    const RandomStream random(1, name);
    for (int64_t i = 0; i < t.numel(); ++i) t.data<float>()[i] = float(random.normal(uint64_t(i)));
    return t;
  }
  Context& ctx_;
  int64_t tokens_;
  std::unique_ptr<Mixer> mixer_;
  ParamStore params_;
  SequenceLayout layout_;
  Tensor x_, dy_;
};

std::vector<int64_t> lengths_up_to(int64_t tokens) {
  std::vector<int64_t> lengths;
  for (const int64_t length : kLengths) {
    if (length <= tokens) lengths.push_back(length);
  }
  return lengths;
}

bool wanted(const Settings& settings, const MixerOptions& mixer) {
  return settings.only.empty() || settings.only == name_of(mixer);
}

void print_header(const Settings& settings, const char* last) {
  std::printf("\n| mixer |");
  const std::vector<int64_t> lengths = lengths_up_to(settings.tokens);
  for (const int64_t length : lengths) std::printf(" T=%lld |", static_cast<long long>(length));
  std::printf(" %s |\n|---|", last);
  for (size_t i = 0; i < lengths.size() + 1; ++i) std::printf("---|");
  std::printf("\n");
}

void print_row(std::string_view name, const std::vector<double>& values, const char* ratio_format) {
  std::printf("| %s |", std::string(name).c_str());
  for (const double value : values) std::printf(" %.0f |", value);
  std::printf(ratio_format, values.back() / values.front());
  std::fflush(stdout);
}

// The shapes take turns, so that a slow moment of the machine meets all of them, and each one's best time
// counts.
void print_time_table(const Settings& settings) {
  std::printf(
      "Forward + backward, ns a token, %lld tokens in sequences of T (hidden %lld, 4 heads of 64; fp32, %d "
      "threads, "
      "best of %d)\n",
      static_cast<long long>(settings.tokens), static_cast<long long>(kHidden), settings.threads,
      settings.repeat);
  print_header(settings, "longest / shortest");
  for (const MixerOptions& mixer : kMixers) {
    if (!wanted(settings, mixer)) continue;
    Context ctx({.num_threads = settings.threads});
    std::vector<std::unique_ptr<Case>> cases;
    for (const int64_t length : lengths_up_to(settings.tokens)) {
      cases.push_back(std::make_unique<Case>(mixer, settings.tokens / length, length, ctx));
    }
    std::vector<double> best(cases.size(), std::numeric_limits<double>::infinity());
    for (int i = 0; i < settings.repeat + 1; ++i) {
      for (size_t c = 0; c < cases.size(); ++c) {
        const double ns = cases[c]->run_seconds() / double(cases[c]->tokens()) * 1e9;
        if (i > 0) best[c] = std::min(best[c], ns);  // the first round warms up memory and threads
      }
    }
    print_row(name_of(mixer), best, " %.2f |\n");
  }
}

void print_memory_table(const Settings& settings) {
  std::printf("\nPeak memory of one sequence's forward + backward, MiB above input and parameters\n");
  print_header(settings, "longest / shortest");
  for (const MixerOptions& mixer : kMixers) {
    if (!wanted(settings, mixer)) continue;
    std::vector<double> peaks;
    for (const int64_t length : lengths_up_to(settings.tokens)) {
      Context ctx({.num_threads = settings.threads});
      const Case one(mixer, 1, length, ctx);
      const size_t before = ctx.memory().live_bytes;
      ctx.reset_peak();
      one.run_seconds();
      peaks.push_back(double(ctx.memory().peak_bytes - before) / double(1 << 20));
    }
    print_row(name_of(mixer), peaks, " %.1f |\n");
  }
}

int default_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
}

Settings parse(int argc, char** argv) {
  Settings settings;
  settings.threads = default_threads();
  const option longs[] = {{"tokens", required_argument, nullptr, 't'},
                          {"repeat", required_argument, nullptr, 'r'},
                          {"threads", required_argument, nullptr, 'j'},
                          {"only", required_argument, nullptr, 'o'},
                          {}};
  int code = 0;
  while ((code = getopt_long(argc, argv, "", longs, nullptr)) != -1) {
    switch (code) {
      case 't':
        settings.tokens = std::atoll(optarg);
        break;
      case 'r':
        settings.repeat = std::max(1, std::atoi(optarg));
        break;
      case 'j':
        settings.threads = std::max(1, std::atoi(optarg));
        break;
      case 'o':
        settings.only = optarg;
        break;
      default:
        std::exit(2);
    }
  }
  return settings;
}

}  // namespace
}  // namespace spanwise

int main(int argc, char** argv) {
  const std::string about_blas = spanwise::take_fitting_blas_core(argv);
  if (!about_blas.empty()) std::fprintf(stderr, "%s\n", about_blas.c_str());
  const spanwise::Settings settings = spanwise::parse(argc, argv);
  spanwise::print_time_table(settings);
  spanwise::print_memory_table(settings);
}
