// Matrix products, linear + cross entropy and AdamW on one GPU, in bf16 with fp32 accumulation, beside what
// bounds them: their products alone, and a copy. Prints Markdown tables.
//
//   build/bin/gpu_gemm [--rows 32768] [--vocab 32000] [--parameters 1400000000] [--repeat 10]

#include <getopt.h>

#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "benchmarks/gpu_timing.h"
#include "core/ops/linear.h"
#include "core/ops/linear_cross_entropy.h"
#include "core/optim/adamw.h"
#include "core/optim/clip.h"

namespace spanwise {
namespace {

struct Settings {
  int64_t rows = 32768, vocab = 32000, parameters = 1'400'000'000;
  int repeat = 10;
};

struct Bench {
  Context& ctx;
  Settings settings;
  GpuTimer timer{ctx};

  double ms(const std::function<void()>& run) const { return timer.median_ms(run, settings.repeat); }
  Tensor normals(const Shape& shape, double stddev) const {
    return random_on_gpu(ctx, shape, DType::kBF16, "values", stddev);
  }
  Tensor empty(const Shape& shape, DType dtype) const { return Tensor::empty(ctx, shape, dtype); }
};

double tera_flops(int64_t m, int64_t n, int64_t k, double ms) {
  return 2.0 * double(m) * double(n) * double(k) / ms / 1e9;
}

void print_linear(const Bench& bench) {
  const int64_t rows = bench.settings.rows;
  std::cout << fmt::format(
      "| linear, {} rows | forward ms | TFLOP/s | dx ms | TFLOP/s | dW += ms | TFLOP/s |\n"
      "|---|---|---|---|---|---|---|\n",
      rows);
  const std::pair<int64_t, int64_t> sizes[] = {{1024, 1024},  {2048, 2048},  {2048, 5632},  {5632, 2048},
                                               {2048, 11264}, {11264, 2048}, {4096, 11264}, {2048, 16}};
  for (const auto& [inputs, outputs] : sizes) {
    const Tensor x = bench.normals({rows, inputs}, 1), w = bench.normals({outputs, inputs}, 0.02),
                 dy = bench.normals({rows, outputs}, 1);
    const Tensor dx = bench.empty(x.shape(), DType::kBF16), dw = bench.empty(w.shape(), DType::kF32);
    dw.set_zero();
    const double forward = bench.ms([&] { linear_fwd(bench.ctx, x, w, Tensor()); });
    const double of_x = bench.ms([&] { linear_bwd_x(bench.ctx, dy, w, {dx, false}); });
    const double of_w = bench.ms([&] { linear_bwd_weight(bench.ctx, dy, x, {dw, true}); });
    std::cout << fmt::format("| {} to {} | {:.3f} | {:.0f} | {:.3f} | {:.0f} | {:.3f} | {:.0f} |\n", inputs,
                             outputs, forward, tera_flops(rows, outputs, inputs, forward), of_x,
                             tera_flops(rows, outputs, inputs, of_x), of_w,
                             tera_flops(rows, outputs, inputs, of_w));
  }
}

void print_cross_entropy(const Bench& bench) {
  constexpr int64_t kWidth = 2048;
  const auto [rows, vocab, parameters, repeat] = bench.settings;
  Context& ctx = bench.ctx;
  const Tensor x = bench.normals({rows, kWidth}, 1), w = bench.normals({vocab, kWidth}, 0.02);
  std::vector<int32_t> labels;
  for (int64_t i = 0; i < rows; ++i) labels.push_back(int32_t(i * 7919 % bench.settings.vocab));
  const CrossEntropyGrads grads{bench.empty(x.shape(), DType::kBF16), bench.empty(w.shape(), DType::kF32)};
  const Tensor loss = bench.empty({1}, DType::kF32);
  std::cout << fmt::format("\n| {} x {} x {} | ms | TFLOP/s |\n|---|---|---|\n", rows, kWidth, vocab);
  const auto print = [&, rows = rows, vocab = vocab](const std::string& name, double ms, int products) {
    std::cout << fmt::format("| {} | {:.3f} | {:.0f} |\n", name, ms,
                             products * tera_flops(rows, vocab, kWidth, ms));
  };
  const int64_t most = default_chunk_rows(Device::kCUDA, vocab);
  for (const int64_t chunk : {most / 4, most / 2, most, rows}) {
    const Tensor logits = linear_fwd(ctx, x.row_range(0, chunk), w, Tensor());
    const auto products = [&, rows = rows] {
      for (int64_t begin = 0; begin < rows; begin += chunk) {
        const Tensor part = x.row_range(begin, std::min(begin + chunk, rows));
        const Tensor z = logits.row_range(0, part.dim(0));
        linear_fwd(ctx, part, w, Tensor());
        linear_bwd_x(ctx, z, w, {grads.dx.row_range(begin, begin + part.dim(0)), false});
        linear_bwd_weight(ctx, z, part, {grads.dweight, begin > 0});
      }
    };
    print(fmt::format("three products, chunks of {}", chunk), bench.ms(products), 3);
    print("loss and gradients",
          bench.ms([&] { linear_cross_entropy_fwd(ctx, x, w, labels, {.chunk_rows = chunk}, grads, loss); }),
          3);
    print("loss alone",
          bench.ms([&] { linear_cross_entropy_fwd(ctx, x, w, labels, {.chunk_rows = chunk}, {}, loss); }), 1);
  }
}

void print_adamw(const Bench& bench) {
  const int64_t n = bench.settings.parameters;
  const auto zeros = [&](DType dtype) { return Tensor::zeros(bench.ctx, {n}, dtype); };
  const Tensor grad = zeros(DType::kF32);
  const AdamWTensors span{.param = zeros(DType::kF32),
                          .m = zeros(DType::kF32),
                          .v = zeros(DType::kF32),
                          .copy = zeros(DType::kBF16)};
  const double copy = bench.ms([&] { span.m.copy_from(span.v); });
  Tensor norm;
  const double of_norm = bench.ms([&] { norm = squared_norm(bench.ctx, {grad}); });
  const AdamW adamw(bench.ctx, {span});
  const AdamWHyper hyper{.lr = 1e-3, .weight_decay = 0.1, .step = 3};
  const double step = bench.ms([&] { adamw.step({grad}, hyper, {norm, 1.0}); });
  const auto print = [&](const char* name, double bytes_each, double ms) {
    std::cout << fmt::format("| {} | {:.3f} | {:.2f} | {:.0f} |\n", name, ms,
                             bytes_each * double(n) / ms / 1e9, 100 * bytes_each / 8 * copy / ms);
  };
  std::cout << fmt::format("\n| {} elements | ms | TB/s | % of the copy |\n|---|---|---|---|\n", n);
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
    if (c == 'r') {
      settings.rows = std::atoll(optarg);
    } else if (c == 'v') {
      settings.vocab = std::atoll(optarg);
    } else if (c == 'p') {
      settings.parameters = std::atoll(optarg);
    } else if (c == 'n') {
      settings.repeat = std::atoi(optarg);
    } else {
      std::exit(2);
    }
  }
  return settings;
}

}  // namespace
}  // namespace spanwise

int main(int argc, char** argv) {
  using namespace spanwise;
  const Settings settings = parse(argc, argv);
  Context ctx({.device = Device::kCUDA});
  const Bench bench{ctx, settings};
  print_linear(bench);
  print_cross_entropy(bench);
  print_adamw(bench);
}
