// The kernels of every mixer on one GPU in bf16, forward and forward + backward, median ms:
//
//   build/bin/gpu_mixers [--shape B,T,H,D]… [--only NAME]
//
// One line a kernel: name, shape, forward, forward + backward. benchmarks/gpu_mixers.sh runs it beside the
// peers (benchmarks/peers/fla_mixers.py, which prints the same lines) and joins both in a table.

#include <getopt.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "benchmarks/gpu_timing.h"
#include "core/ops/gated_delta.h"
#include "core/ops/scalar_decay.h"
#include "core/ops/softmax_attention.h"

namespace spanwise {
namespace {

struct Heads {
  int64_t B, T, H, D;
};

struct Kernel {
  std::string name;
  std::function<Var(Tape&)> apply;
};

/// q, k, v, gates of one shape, and the ops over them. Keys have unit length, as the delta rule needs.
class Operands {
 public:
  Operands(Context& ctx, const Heads& s)
      : shape_(s),
        layout_(s.B, s.T),
        q_(leaf(ctx, {s.B, s.T, s.H, s.D}, DType::kBF16, "q")),
        k_(leaf(ctx, {s.B, s.T, s.H, s.D}, DType::kBF16, "k", 1 / std::sqrt(double(s.D)))),
        v_(leaf(ctx, {s.B, s.T, s.H, s.D}, DType::kBF16, "v")),
        log_decay_(leaf(ctx, {s.B, s.T, s.H}, DType::kF32, "g", 0.02, -0.1)),
        beta_(leaf(ctx, {s.B, s.T, s.H}, DType::kF32, "beta", 0.1, 0.5)),
        per_head_(Var(random_on_gpu(ctx, {s.H}, DType::kF32, "decay", 0.01, -0.1))),
        ranges_(causal_key_ranges(layout_, 0)) {}

  std::vector<Kernel> kernels() const {
    const LinearStateOptions options{.scale = 1 / std::sqrt(double(shape_.D))};
    return {
        {"lightning",
         [=, this](Tape& t) {
           return scalar_decay(t, {.q = q_, .k = k_, .v = v_, .head_log_decay = per_head_}, layout_, options)
               .out;
         }},
        {"simple_gla",
         [=, this](Tape& t) {
           return scalar_decay(t, {.q = q_, .k = k_, .v = v_, .log_decay = log_decay_}, layout_, options).out;
         }},
        {"delta_rule",
         [=, this](Tape& t) {
           return gated_delta(t, {.q = q_, .k = k_, .v = v_, .beta = beta_}, layout_, options).out;
         }},
        {"gated_delta_rule",
         [=, this](Tape& t) {
           return gated_delta(t, {.q = q_, .k = k_, .v = v_, .log_decay = log_decay_, .beta = beta_}, layout_,
                              options)
               .out;
         }},
        {"softmax", [=, this](Tape& t) { return softmax_attention(t, q_, k_, v_, ranges_, options.scale); }},
    };
  }
  void clear_grads() const {
    for (const Var* v : {&q_, &k_, &v_, &log_decay_, &beta_}) v->clear_grad();
  }

 private:
  static Var leaf(Context& ctx, const Shape& shape, DType dtype, const char* name, double scale = 1,
                  double shift = 0) {
    return Var(random_on_gpu(ctx, shape, dtype, name, scale, shift), true);
  }
  Heads shape_;
  SequenceLayout layout_;
  Var q_, k_, v_, log_decay_, beta_;
  Var per_head_;
  KeyRanges ranges_;
};

void run(Context& ctx, const Heads& s, const std::string& only) {
  const Operands operands(ctx, s);
  const GpuTimer timer(ctx);
  const Tensor dout = random_on_gpu(ctx, {s.B, s.T, s.H, s.D}, DType::kBF16, "dout");
  for (const Kernel& kernel : operands.kernels()) {
    if (!only.empty() && only != kernel.name) continue;
    const double forward = timer.median_ms([&] {
      Tape tape(ctx, Tape::Mode::kInference);
      kernel.apply(tape);
    });
    const double both = timer.median_ms([&] {
      Tape tape(ctx);
      const Var out = kernel.apply(tape);
      tape.backward({out}, {dout});
      operands.clear_grads();
    });
    std::printf("%s %lldx%lldx%lldx%lld %.3f %.3f\n", kernel.name.c_str(), (long long)s.B, (long long)s.T,
                (long long)s.H, (long long)s.D, forward, both);
    std::fflush(stdout);
  }
}

Heads parse_shape(const char* text) {
  long long b, t, h, d;
  if (std::sscanf(text, "%lld,%lld,%lld,%lld", &b, &t, &h, &d) != 4 || b < 1 || t < 1 || h < 1 || d < 1) {
    std::fprintf(stderr, "--shape %s: give B,T,H,D, such as 4,8192,16,128.\n", text);
    std::exit(2);
  }
  return {b, t, h, d};
}

}  // namespace
}  // namespace spanwise

int main(int argc, char** argv) {
  std::vector<spanwise::Heads> shapes;
  std::string only;
  const option longs[] = {
      {"shape", required_argument, nullptr, 's'}, {"only", required_argument, nullptr, 'o'}, {}};
  int code = 0;
  while ((code = getopt_long(argc, argv, "", longs, nullptr)) != -1) {
    if (code == 's') {
      shapes.push_back(spanwise::parse_shape(optarg));
    } else if (code == 'o') {
      only = optarg;
    } else {
      return 2;
    }
  }
  if (shapes.empty()) shapes.push_back({4, 8192, 16, 128});
  try {
    spanwise::Context ctx({.device = spanwise::Device::kCUDA});
    for (const spanwise::Heads& shape : shapes) spanwise::run(ctx, shape, only);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gpu_mixers: %s\n", error.what());
    return 1;
  }
}
