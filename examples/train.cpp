// Trains a two-layer hybrid to continue x ↦ 5x + 3 modulo 64, in this process alone: the loss falls from
// ln 64.
#include <cstdio>

#include "core/blas_core.h"
#include "models/language_model.h"
#include "parallel/gradient_reducer.h"
#include "parallel/sharded_adamw.h"

int main(int, char** argv) {
  using namespace spanwise;
  if (const std::string said = take_fitting_blas_core(argv); !said.empty()) std::puts(said.c_str());
  Context ctx({.num_threads = 2});
  const SwigluOptions swiglu{.intermediate = 128};
  const GatedDeltaNetOptions linear{
      .heads = {.num_heads = 4, .num_value_heads = 4, .key_dim = 16, .value_dim = 16},
      .conv_size = 4,
      .output_gate = true,
      .chunk = 64};
  const AttentionOptions softmax{.num_heads = 4, .num_kv_heads = 4, .head_dim = 16, .rope_theta = 10000};
  LanguageModel model({.vocab_size = 64,
                       .layers = {{linear, swiglu}, {softmax, swiglu}},
                       .shared = {.hidden = 64, .norm_eps = 1e-6, .linear = {.init_stddev = 0.02}}});
  ParamStore params(ctx, model, DType::kF32, /*seed=*/1);
  GradientReducer reducer(params);
  ShardedAdamW optimizer(params);

  const SequenceLayout layout(/*rows=*/4, /*tokens=*/64);
  double loss = 0;
  for (int64_t step = 1; step <= 60; ++step) {
    const RandomStream random(uint64_t(step), "first tokens");
    std::vector<int32_t> tokens, labels;
    for (uint64_t i = 0; i < 4 * 64; ++i) {
      tokens.push_back(i % 64 == 0 ? int32_t(random.below(i, 64)) : labels.back());
      labels.push_back((5 * tokens.back() + 3) % 64);
    }
    Tape tape(ctx);
    reducer.expect_last_backward();
    const Var mean = model.loss(tape, {tokens, labels, layout}, /*loss_scale=*/1.0 / double(tokens.size()));
    tape.backward(mean);
    reducer.finish();
    optimizer.step({.lr = 3e-3, .weight_decay = 0.1, .step = step});
    loss = mean.value().data<float>()[0];
    if (step % 10 == 0) std::printf("step %2ld  loss %.4f\n", long(step), loss);
  }
  return loss < 0.1 ? 0 : 1;
}
