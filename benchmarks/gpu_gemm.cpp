// Matrix products, linear + cross entropy and AdamW on one GPU, in bf16 with fp32 accumulation, beside what
// bounds them: the product's own rate, and a copy's. Prints Markdown tables; medians of event times.
//
//   build/bin/gpu_gemm [--rows 32768] [--vocab 32000] [--parameters 1400000000] [--repeat 10]

#include <cuda_runtime.h>
#include <getopt.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "core/ops/linear.h"
#include "core/ops/linear_cross_entropy.h"
#include "core/optim/adamw.h"
#include "core/optim/clip.h"
#include "core/rng.h"

namespace spanwise {
namespace {

struct Settings {
  int64_t rows = 32768, vocab = 32000, parameters = 1'400'000'000;
  int repeat = 10;
};

double median_ms(Context& ctx, int repeat, const std::function<void()>& run) {
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  std::vector<double> times;
  for (int i = 0; i < repeat + 2; ++i) {
    cudaEventRecord(begin, ctx.stream());
    run();
    cudaEventRecord(end, ctx.stream());
    cudaEventSynchronize(end);
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    if (i >= 2) times.push_back(ms);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

/// Normal values; one block of them repeated, which a product's rate does not see.
Tensor normals(Context& ctx, const Shape& shape, double stddev) {
  constexpr int64_t kBlock = 1 << 20;
  const RandomStream random(1, shape.str());
  std::vector<BFloat16> values(size_t(shape.numel()));
  for (int64_t i = 0; i < shape.numel(); ++i)
    values[size_t(i)] =
        i < kBlock ? BFloat16(stddev * random.normal(uint64_t(i))) : values[size_t(i - kBlock)];
  return Tensor::from(ctx, shape, values);
}

void print_linear(Context& ctx, const Settings& s) {
  std::printf("| linear, %lld rows | forward ms | TFLOP/s | dx ms | TFLOP/s | dW += ms | TFLOP/s |\n",
              static_cast<long long>(s.rows));
  std::printf("|---|---|---|---|---|---|---|\n");
  const std::pair<int64_t, int64_t> sizes[] = {{1024, 1024},  {2048, 2048},  {2048, 5632},  {5632, 2048},
                                               {2048, 11264}, {11264, 2048}, {4096, 11264}, {2048, 16}};
  for (const auto& [inputs, outputs] : sizes) {
    const Tensor x = normals(ctx, {s.rows, inputs}, 1), w = normals(ctx, {outputs, inputs}, 0.02),
                 dy = normals(ctx, {s.rows, outputs}, 1);
    const Tensor dx = Tensor::empty(ctx, x.shape(), DType::kBF16),
                 dw = Tensor::zeros(ctx, w.shape(), DType::kF32);
    const double tera = 2.0 * double(s.rows) * double(inputs) * double(outputs) / 1e9;
    const double forward = median_ms(ctx, s.repeat, [&] { linear_fwd(ctx, x, w, Tensor()); });
    const double of_x = median_ms(ctx, s.repeat, [&] { linear_bwd_x(ctx, dy, w, {dx, false}); });
    const double of_w = median_ms(ctx, s.repeat, [&] { linear_bwd_weight(ctx, dy, x, {dw, true}); });
    std::printf("| %lld to %lld | %.3f | %.0f | %.3f | %.0f | %.3f | %.0f |\n",
                static_cast<long long>(inputs), static_cast<long long>(outputs), forward, tera / forward,
                of_x, tera / of_x, of_w, tera / of_w);
  }
}

void print_cross_entropy(Context& ctx, const Settings& s) {
  constexpr int64_t kWidth = 2048;
  const Tensor x = normals(ctx, {s.rows, kWidth}, 1), w = normals(ctx, {s.vocab, kWidth}, 0.02);
  std::vector<int32_t> labels;
  for (int64_t i = 0; i < s.rows; ++i) labels.push_back(int32_t(i * 7919 % s.vocab));
  const CrossEntropyGrads grads{Tensor::empty(ctx, x.shape(), DType::kBF16),
                                Tensor::empty(ctx, w.shape(), DType::kF32)};
  const Tensor loss = Tensor::empty(ctx, {1}, DType::kF32);
  const double tera = 2.0 * double(s.rows) * double(kWidth) * double(s.vocab) / 1e9;
  const double product = median_ms(ctx, s.repeat, [&] { linear_fwd(ctx, x, w, Tensor()); });
  std::printf("\n| %lld x %lld x %lld | ms | TFLOP/s |\n|---|---|---|\n", static_cast<long long>(s.rows),
              static_cast<long long>(kWidth), static_cast<long long>(s.vocab));
  std::printf("| one product | %.3f | %.0f |\n", product, tera / product);
  const int64_t most = default_chunk_rows(Device::kCUDA, s.vocab);
  for (const int64_t chunk : {most / 4, most / 2, most, s.rows}) {
    const double both = median_ms(ctx, s.repeat, [&] {
      linear_cross_entropy_fwd(ctx, x, w, labels, {.chunk_rows = chunk}, grads, loss);
    });
    const double forward = median_ms(
        ctx, s.repeat, [&] { linear_cross_entropy_fwd(ctx, x, w, labels, {.chunk_rows = chunk}, {}, loss); });
    std::printf("| loss, chunks of %lld | %.3f | %.0f |\n", static_cast<long long>(chunk), forward,
                tera / forward);
    std::printf("| loss and gradients, chunks of %lld | %.3f | %.0f |\n", static_cast<long long>(chunk), both,
                3 * tera / both);
  }
}

void print_adamw(Context& ctx, const Settings& s) {
  const auto zeros = [&](DType dtype) { return Tensor::zeros(ctx, {s.parameters}, dtype); };
  const AdamWTensors span{.param = zeros(DType::kF32),
                          .grad = zeros(DType::kF32),
                          .m = zeros(DType::kF32),
                          .v = zeros(DType::kF32),
                          .copy = zeros(DType::kBF16)};
  const double copy = median_ms(ctx, s.repeat, [&] { span.m.copy_from(span.v); });
  const SquaredNorm squared_norm(ctx, {span.grad});
  Tensor norm;
  const double of_norm = median_ms(ctx, s.repeat, [&] { norm = squared_norm(); });
  const AdamW adamw(ctx, {span});
  const double step = median_ms(ctx, s.repeat, [&] {
    adamw.step({.lr = 1e-3, .weight_decay = 0.1, .step = 3}, {norm, 1.0});
  });
  const auto print = [&](const char* name, double bytes_each, double ms) {
    std::printf("| %s | %.3f | %.2f | %.0f |\n", name, ms, bytes_each * double(s.parameters) / ms / 1e9,
                100 * bytes_each / 8 * copy / ms);
  };
  std::printf("\n| %lld elements | ms | TB/s | %% of the copy |\n|---|---|---|---|\n",
              static_cast<long long>(s.parameters));
  print("copy", 8, copy);
  print("squared norm", 4, of_norm);
  print("AdamW", 30, step);
}

Settings parse(int argc, char** argv) {
  Settings settings;
  const option options[] = {{"rows", required_argument, nullptr, 'r'},
                            {"vocab", required_argument, nullptr, 'v'},
                            {"parameters", required_argument, nullptr, 'p'},
                            {"repeat", required_argument, nullptr, 'n'},
                            {}};
  for (int c; (c = getopt_long(argc, argv, "", options, nullptr)) != -1;) {
    if (c == 'r')
      settings.rows = std::atoll(optarg);
    else if (c == 'v')
      settings.vocab = std::atoll(optarg);
    else if (c == 'p')
      settings.parameters = std::atoll(optarg);
    else if (c == 'n')
      settings.repeat = std::atoi(optarg);
    else
      std::exit(2);
  }
  return settings;
}

}  // namespace
}  // namespace spanwise

int main(int argc, char** argv) {
  using namespace spanwise;
  const Settings settings = parse(argc, argv);
  Context ctx({.device = Device::kCUDA});
  print_linear(ctx, settings);
  print_cross_entropy(ctx, settings);
  print_adamw(ctx, settings);
}
