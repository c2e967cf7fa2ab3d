// The memory-bound ops on one GPU, BF16, against the rate of a plain copy measured in the same run. Bytes
// count each input read once and each output written once.
//
//   gpu_memory_ops [norms] [mlp] [convolutions] [heads] [embeddings]     (default: all)

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

#include "benchmarks/gpu_timing.h"
#include "core/ops/embedding.h"
#include "core/ops/gated_rms_norm.h"
#include "core/ops/gates.h"
#include "core/ops/l2_norm.h"
#include "core/ops/rms_norm.h"
#include "core/ops/rope.h"
#include "core/ops/short_conv.h"
#include "core/ops/swiglu.h"
#include "core/ops/views.h"

namespace spanwise {
namespace {

constexpr int64_t kRows = 32768, kHidden = 2048, kBatch = 8;

class Bench {
 public:
  Bench() {
    copy_rate_ = 2 * double(ahead_from_.bytes()) / median_ms([&] { ahead_to_.copy_from(ahead_from_); });
    std::printf("%-34s %8s %9s %7s\n", "op", "ms", "GB/s", "% copy");
    std::printf("%-34s %8s %9.0f %7s\n", "copy of 1 GiB", "", copy_rate_ / 1e6, "100");
    const Tensor from = ahead_from_.slice_flat(0, {int64_t(1) << 27}),
                 to = ahead_to_.slice_flat(0, from.shape());
    run("copy of 128 MiB", {from, to}, [&] { to.copy_from(from); });
  }

  /// `tensors`: what the op reads and writes.
  void run(const std::string& name, const std::vector<Tensor>& tensors, const std::function<void()>& op) {
    double bytes = 0;
    for (const Tensor& t : tensors) bytes += double(t.bytes());
    const double ms = median_ms(op), rate = bytes / ms;
    std::printf("%-34s %8.4f %9.0f %7.1f\n", name.c_str(), ms, rate / 1e6, 100 * rate / copy_rate_);
    std::fflush(stdout);
  }

  Tensor random(const Shape& shape, DType dtype = DType::kBF16) {
    return random_on_gpu(ctx, shape, dtype, "operand");
  }
  Tensor like(const Tensor& t) { return Tensor::empty(ctx, t.shape(), t.dtype()); }

  Context ctx{{.device = Device::kCUDA}};

 private:
  /// Of several runs of a few calls each, queued behind two milliseconds of copies: as in a training step,
  /// the host's share of a call is not seen.
  double median_ms(const std::function<void()>& op) {
    constexpr int kRuns = 9, kCalls = 8;
    for (int i = 0; i < 3; ++i) op();
    cudaEvent_t begin, end;
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    std::vector<float> times;
    for (int run = 0; run < kRuns; ++run) {
      for (int i = 0; i < 4; ++i) ahead_to_.copy_from(ahead_from_);
      cudaEventRecord(begin, ctx.stream());
      for (int i = 0; i < kCalls; ++i) op();
      cudaEventRecord(end, ctx.stream());
      cudaEventSynchronize(end);
      float ms = 0;
      cudaEventElapsedTime(&ms, begin, end);
      times.push_back(ms / kCalls);
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    std::nth_element(times.begin(), times.begin() + kRuns / 2, times.end());
    return times[kRuns / 2];
  }

  double copy_rate_ = 1;
  Tensor ahead_from_ = Tensor::zeros(ctx, {int64_t(1) << 30}, DType::kU8);
  Tensor ahead_to_ = Tensor::zeros(ctx, {int64_t(1) << 30}, DType::kU8);
};

void norms(Bench& b) {
  Context& ctx = b.ctx;
  const Tensor x = b.random({kRows, kHidden}), residual = b.random({kRows, kHidden}), dy = b.like(x);
  dy.copy_from(residual);
  const Tensor w = b.random({kHidden}, DType::kF32);
  const RmsNormForward f = rms_norm_fwd(ctx, x, Tensor(), w, 1e-6);
  b.run("rms_norm fwd 2048", {x, f.y}, [&] { rms_norm_fwd(ctx, x, Tensor(), w, 1e-6); });
  b.run("add_rms_norm fwd 2048", {x, x, f.y, f.y}, [&] { rms_norm_fwd(ctx, x, residual, w, 1e-6); });
  b.run("rms_norm bwd 2048", {dy, x, x}, [&] { rms_norm_bwd(ctx, dy, Tensor(), x, w, f.rstd); });
  b.run("add_rms_norm bwd 2048", {dy, dy, x, x}, [&] { rms_norm_bwd(ctx, dy, residual, x, w, f.rstd); });
  for (const int64_t dim : {64, 128, 256}) {
    const Shape heads{kRows, kHidden / dim, dim};
    const Tensor xh = x.reshape(heads), gate = residual.reshape(heads), dyh = dy.reshape(heads);
    const Tensor wh = b.random({dim}, DType::kF32), y = b.like(xh), dx = b.like(xh), dgate = b.like(xh);
    const Tensor rstd = Tensor::empty(ctx, {kRows * kHidden / dim}, DType::kF32);
    const Tensor dw = Tensor::empty(ctx, {dim}, DType::kF32);
    const std::string name = std::to_string(dim);
    const GatedNormInputs in{xh, gate, wh, {}};
    b.run("gated_rms_norm fwd " + name, {xh, gate, y, rstd},
          [&] { cuda::gated_rms_norm_fwd(ctx, in, 1e-5, y, rstd); });
    b.run("gated_rms_norm bwd " + name, {dyh, xh, gate, dx, dgate, rstd}, [&] {
      cuda::gated_rms_norm_bwd(ctx, dyh, in, rstd, {dx, dgate, dw});
    });
    b.run("l2_norm fwd " + name, {xh, y, rstd}, [&] { cuda::l2_norm_fwd(ctx, xh, 1e-6, y, rstd); });
    b.run("l2_norm bwd " + name, {dyh, y, dx, rstd}, [&] { cuda::l2_norm_bwd(ctx, dyh, y, rstd, dx); });
  }
}

void mlp(Bench& b) {
  constexpr int64_t kWidth = 5632;
  const Tensor both = b.random({kRows, 2 * kWidth}), dboth = b.like(both);
  const Tensor gate = both.column_range(0, kWidth), up = both.column_range(kWidth, 2 * kWidth);
  const Tensor dy = b.random({kRows, kWidth}), y = b.like(dy), dgate = b.like(dy), dup = b.like(dy);
  b.run("swiglu fwd 5632 blocks", {gate, up, y}, [&] { cuda::swiglu_fwd(b.ctx, gate, up, y); });
  b.run("swiglu bwd 5632 blocks", {dy, gate, up, dgate, dup},
        [&] { cuda::swiglu_bwd(b.ctx, dy, gate, up, dgate, dup); });
  b.run("swiglu fwd 5632", {dgate, dup, y}, [&] { cuda::swiglu_fwd(b.ctx, dgate, dup, y); });
  const Tensor g = b.like(dy), u = b.like(dy);
  g.copy_from(dy);
  u.copy_from(dy);
  b.run("swiglu bwd 5632", {dy, g, u, dgate, dup}, [&] { cuda::swiglu_bwd(b.ctx, dy, g, u, dgate, dup); });
  b.run("join_columns 2 x 5632", {dgate, dup, dboth}, [&] {
    cuda::join_columns(b.ctx, {dgate, dup}, {kWidth, kWidth}, dboth);
  });
}

void convolutions(Bench& b) {
  for (const int64_t channels : {2048, 6144}) {
    const std::string name = std::to_string(channels);
    const SequenceLayout layout(kBatch, kRows / kBatch);
    const Tensor x = b.random({kBatch, kRows / kBatch, channels}), y = b.like(x), dy = b.like(x),
                 dx = b.like(x);
    dy.copy_from(x);
    const Tensor w = b.random({channels, 1, 4}, DType::kF32), dw = b.like(w);
    const Tensor state = Tensor::empty(b.ctx, {kBatch, 3, channels}, DType::kBF16);
    for (const int64_t head_dim : {0, 128}) {
      const ShortConvInputs in{x, w, Tensor(), Tensor(), layout.segments(), Activation::kSiLU, {head_dim}};
      const std::string op = head_dim > 0 ? "short_conv + l2_norm " : "short_conv ";
      b.run(op + "fwd " + name, {x, y}, [&] { cuda::short_conv_fwd(b.ctx, in, y, state); });
      b.run(op + "bwd " + name, {x, dy, dx}, [&] {
        cuda::short_conv_bwd(b.ctx, in, dy, Tensor(), {dx, dw, Tensor(), Tensor()});
      });
    }
  }
}

void heads(Bench& b) {
  Context& ctx = b.ctx;
  const Shape shape{kBatch, kRows / kBatch, 16, 128};
  const Tensor x = b.random(shape);
  const SequenceLayout layout(kBatch, kRows / kBatch);
  const auto table = ctx.attached<RopeTables>().get(layout.positions(), 1e4, 128, DType::kBF16);
  b.run("rope 16 x 128", {x, x}, [&] { rope_apply(ctx, x, *table, RopeDirection::kForward); });

  const Tensor small = b.random({kBatch, kRows / kBatch, 16}), H = b.random({16}, DType::kF32);
  const Tensor g = Tensor::empty(ctx, small.shape(), DType::kF32), da = b.like(small);
  const Tensor dH = b.like(H), dH2 = b.like(H);
  b.run("decay_gate fwd 16", {small, g}, [&] { cuda::decay_gate_fwd(ctx, small, H, H, g); });
  b.run("decay_gate bwd 16", {small, g, g, da}, [&] {
    cuda::decay_gate_bwd(ctx, g, small, H, H, g, {da, dH, dH2});
  });

  const Shape mamba{kBatch, kRows / kBatch, 64, 64};
  const Tensor xm = b.random(mamba), dt = b.random({kBatch, kRows / kBatch, 64}), dv = b.like(xm);
  dv.copy_from(xm);
  const Tensor A = b.random({64}, DType::kF32), dA = b.like(A), dbias = b.like(A);
  const Tensor delta = Tensor::empty(ctx, dt.shape(), DType::kF32), gm = b.like(delta), dx = b.like(xm);
  const Mamba2GatesTensors t{xm, dt, A, A, {}, delta, b.like(xm), gm};
  b.run("mamba2_gates fwd 64 x 64", {xm, dt, t.v, delta, gm}, [&] { cuda::mamba2_gates_fwd(ctx, t); });
  b.run("mamba2_gates bwd 64 x 64", {dv, xm, dx, dt, dt, gm, gm, delta}, [&] {
    cuda::mamba2_gates_bwd(ctx, dv, gm, t, {dx, b.like(dt), dA, dbias});
  });
  b.run("head_skip fwd 64 x 64", {xm, xm, dx}, [&] { cuda::head_skip_fwd(ctx, dv, xm, A, dx); });
  b.run("head_skip bwd 64 x 64", {xm, xm, dx}, [&] { cuda::head_skip_bwd(ctx, dv, xm, A, dx, dA); });
}

void embeddings(Bench& b) {
  constexpr int64_t kVocab = 32000;
  const RandomStream random(3, "tokens");
  std::vector<int32_t> tokens;
  // Zipf-like: id ~ vocab^u.
  for (int64_t i = 0; i < kRows; ++i)
    tokens.push_back(int32_t(std::pow(double(kVocab), random.uniform(uint64_t(i)))) - 1);
  std::vector<int32_t> distinct = tokens;
  std::sort(distinct.begin(), distinct.end());
  const int64_t rows = std::unique(distinct.begin(), distinct.end()) - distinct.begin();
  const Tensor w = b.random({kVocab, kHidden}), y = Tensor::empty(b.ctx, {kRows, kHidden}, DType::kBF16);
  const Tensor dw = Tensor::zeros(b.ctx, w.shape(), DType::kF32), touched = dw.row_range(0, rows);
  b.run("embedding fwd 2048", {y, w.row_range(0, rows)}, [&] { cuda::embedding_fwd(b.ctx, tokens, w, y); });
  b.run("embedding bwd 2048 (+=)", {y, touched, touched},
        [&] { cuda::embedding_bwd(b.ctx, y, tokens, dw, true); });
}

}  // namespace
}  // namespace spanwise

int main(int argc, char** argv) {
  using namespace spanwise;
  const std::pair<std::string_view, void (*)(Bench&)> groups[] = {{"norms", norms},
                                                                  {"mlp", mlp},
                                                                  {"convolutions", convolutions},
                                                                  {"heads", heads},
                                                                  {"embeddings", embeddings}};
  const std::vector<std::string_view> wanted(argv + 1, argv + argc);
  for (const std::string_view name : wanted) {
    if (std::none_of(std::begin(groups), std::end(groups), [&](const auto& g) { return g.first == name; })) {
      std::fprintf(stderr, "There is no group %s; groups are norms, mlp, convolutions, heads, embeddings.\n",
                   std::string(name).c_str());
      return 2;
    }
  }
  Bench bench;
  for (const auto& [name, run] : groups) {
    if (wanted.empty() || std::count(wanted.begin(), wanted.end(), name)) run(bench);
  }
}
