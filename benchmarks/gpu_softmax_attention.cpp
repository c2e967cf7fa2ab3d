// Softmax attention on one GPU in bf16: forward and backward alone, median ms and TFLOP/s of the products
// that the mask leaves (4 D a visible pair of query and key forward, 10 D backward), for each set of kernels.
//
//   build/bin/gpu_softmax_attention [wgmma] [mma]
//
// benchmarks/notes/softmax_attention.md holds floors, predictions and outcomes.

#include <cmath>
#include <cstdio>
#include <cstring>

#include "benchmarks/gpu_timing.h"
#include "core/ops/cuda/softmax_attention.h"

namespace spanwise {
namespace {

using cuda::AttentionPath;

struct Case {
  const char* name;
  int64_t batch, length, heads, kv_heads, width, window;
  bool documents;
};

/// Documents of 1000 to 4000 tokens.
SequenceLayout packed(const Case& c) {
  std::vector<int64_t> starts;
  const RandomStream random(1, "documents");
  for (int64_t at = 0, i = 0; at < c.batch * c.length; ++i) {
    starts.push_back(at);
    at += 1000 + int64_t(random.bits(uint64_t(i)) % 3001);
  }
  return SequenceLayout(c.batch, c.length, std::move(starts));
}

void time_case(Context& ctx, const GpuTimer& timer, const Case& c, AttentionPath path,
               const char* path_name) {
  const SequenceLayout layout = c.documents ? packed(c) : SequenceLayout(c.batch, c.length);
  const Shape queries{c.batch, c.length, c.heads, c.width}, keys{c.batch, c.length, c.kv_heads, c.width};
  const AttentionInputs in{random_on_gpu(ctx, queries, DType::kBF16, "q"),
                           random_on_gpu(ctx, keys, DType::kBF16, "k"),
                           random_on_gpu(ctx, keys, DType::kBF16, "v"), causal_key_ranges(layout, c.window),
                           1 / std::sqrt(double(c.width))};
  const Tensor dout = random_on_gpu(ctx, queries, DType::kBF16, "dout");
  const AttentionForward forward{Tensor::empty(ctx, queries, DType::kBF16),
                                 Tensor::empty(ctx, {c.batch, c.length, c.heads}, DType::kF32)};
  const AttentionBackward grads{Tensor::empty(ctx, queries, DType::kBF16),
                                Tensor::empty(ctx, keys, DType::kBF16),
                                Tensor::empty(ctx, keys, DType::kBF16)};
  double pairs = 0;
  for (size_t i = 0; i < in.ranges.begin.size(); ++i) pairs += double(in.ranges.end[i] - in.ranges.begin[i]);
  const double flops = 4.0 * pairs * double(c.heads * c.width);
  const double fwd = timer.median_ms([&] { cuda::softmax_attention_fwd(ctx, in, forward, path); }, 10);
  const double bwd =
      timer.median_ms([&] { cuda::softmax_attention_bwd(ctx, dout, in, forward, grads, path); }, 10);
  std::printf("%-12s %-6s %lldx%lldx%lld/%lldx%lld  fwd %7.3f ms %4.0f TFLOP/s  bwd %7.3f ms %4.0f TFLOP/s\n",
              c.name, path_name, (long long)c.batch, (long long)c.length, (long long)c.heads,
              (long long)c.kv_heads, (long long)c.width, fwd, flops / fwd * 1e-9, bwd,
              2.5 * flops / bwd * 1e-9);
  std::fflush(stdout);
}

int run(int argc, char** argv) {
  Context ctx({.device = Device::kCUDA, .num_threads = 2});
  const GpuTimer timer(ctx);
  const Case cases[] = {
      {"causal", 4, 8192, 16, 16, 128, 0, false},    {"long", 1, 32768, 16, 16, 128, 0, false},
      {"grouped", 1, 32768, 32, 8, 128, 0, false},   {"narrow", 4, 8192, 16, 16, 64, 0, false},
      {"wide", 4, 8192, 8, 8, 256, 0, false},        {"documents", 1, 32768, 16, 16, 128, 0, true},
      {"window", 1, 32768, 16, 16, 128, 2048, false}};
  const auto asked = [&](const char* name) {
    for (int i = 1; i < argc; ++i)
      if (std::strcmp(argv[i], name) == 0) return true;
    return argc == 1;
  };
  for (const Case& c : cases) {
    // Head dim 256 has no wgmma backward: kAuto mixes the kernels.
    if (asked("wgmma")) time_case(ctx, timer, c, AttentionPath::kAuto, "wgmma");
    if (asked("mma")) time_case(ctx, timer, c, AttentionPath::kMma, "mma");
  }
  return 0;
}

}  // namespace
}  // namespace spanwise

int main(int argc, char** argv) {
  try {
    return spanwise::run(argc, argv);
  } catch (const spanwise::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
