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
#include <string>
#include <vector>

#include "models/mixers/mixer.h"
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

MixerOptions bench_options(MixerKind kind) {
  MixerOptions options;
  options.hidden = kHidden;
  options.layer = 1;
  options.num_layers = 8;
  options.attention = {.num_heads = 4, .num_kv_heads = 4, .head_dim = 64};
  options.linear = {.num_heads = 4, .num_value_heads = 4, .key_dim = 64, .value_dim = 64};
  if (kind == MixerKind::kMamba2) {
    options.linear = {
        .num_heads = 1, .num_value_heads = 8, .key_dim = 64, .value_dim = 64, .conv_bias = true};
  }
  return options;
}

struct Measurement {
  double ns_per_token;
  double peak_mib;  // above the operands and parameters
};

Measurement measure(MixerKind kind, int64_t batch, int64_t length, const Settings& settings) {
  Context ctx({.num_threads = settings.threads});
  const std::unique_ptr<Mixer> mixer = make_mixer(kind, bench_options(kind));
  const ParamStore params(ctx, *mixer, DType::kF32, 1);
  const SequenceLayout layout(batch, length);
  const Tensor x = Tensor::empty(ctx, {batch, length, kHidden}, DType::kF32);
  const Tensor dy = Tensor::empty(ctx, x.shape(), DType::kF32);
  const RandomStream random(1, "x");
  for (int64_t i = 0; i < x.numel(); ++i) {
    x.data<float>()[i] = float(random.normal(uint64_t(i)));
    dy.data<float>()[i] = float(random.normal(uint64_t(i + x.numel())));
  }
  const size_t before = ctx.memory().live_bytes;
  std::vector<double> seconds;
  for (int i = 0; i < settings.repeat + 1; ++i) {  // the first warms up memory and threads
    ctx.reset_peak();
    const auto start = std::chrono::steady_clock::now();
    const Var input(x, true);
    Tape tape(ctx);
    const Var y = mixer->forward(tape, input, {.layout = layout});
    tape.backward({y}, {dy});
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  seconds.erase(seconds.begin());
  std::sort(seconds.begin(), seconds.end());
  return {seconds[seconds.size() / 2] / double(batch * length) * 1e9,
          double(ctx.memory().peak_bytes - before) / double(1 << 20)};
}

void print_header(const char* what, const char* last) {
  std::printf("\n| %s |", what);
  for (const int64_t length : kLengths) std::printf(" T=%lld |", static_cast<long long>(length));
  std::printf(" %s |\n|---|", last);
  for (size_t i = 0; i < std::size(kLengths) + 1; ++i) std::printf("---|");
  std::printf("\n");
}

void print_time_table(const Settings& settings) {
  std::printf(
      "Forward + backward, ns a token, %lld tokens in sequences of T (hidden %lld, 4 heads of 64; fp32, %d "
      "threads, "
      "median of %d)\n",
      static_cast<long long>(settings.tokens), static_cast<long long>(kHidden), settings.threads,
      settings.repeat);
  print_header("mixer", "longest / shortest");
  for (const MixerName& mixer : mixer_names()) {
    if (!settings.only.empty() && settings.only != mixer.name) continue;
    std::printf("| %s |", std::string(mixer.name).c_str());
    double first = 0, last = 0;
    for (const int64_t length : kLengths) {
      if (length > settings.tokens) continue;
      last = measure(mixer.kind, settings.tokens / length, length, settings).ns_per_token;
      if (first == 0) first = last;
      std::printf(" %.0f |", last);
      std::fflush(stdout);
    }
    std::printf(" %.2f |\n", last / first);
  }
}

void print_memory_table(const Settings& settings) {
  std::printf("\nPeak memory of one sequence's forward + backward, MiB above input and parameters\n");
  print_header("mixer", "growth over 32 x tokens");
  Settings once = settings;
  once.repeat = 1;
  for (const MixerName& mixer : mixer_names()) {
    if (!settings.only.empty() && settings.only != mixer.name) continue;
    std::printf("| %s |", std::string(mixer.name).c_str());
    double first = 0, last = 0;
    for (const int64_t length : kLengths) {
      if (length > settings.tokens) continue;
      last = measure(mixer.kind, 1, length, once).peak_mib;
      if (first == 0) first = last;
      std::printf(" %.0f |", last);
      std::fflush(stdout);
    }
    std::printf(" %.1f |\n", last / first);
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
  const spanwise::Settings settings = spanwise::parse(argc, argv);
  spanwise::print_time_table(settings);
  spanwise::print_memory_table(settings);
}
