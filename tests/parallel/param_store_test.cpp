#include "parallel/param_store.h"

#include "parallel/sharded_adamw.h"
#include "parallel/whole_params.h"

#include "tests/testing/op_testing.h"

namespace spanwise::testing {
namespace {

struct TwoMatrices : Module {
  TwoMatrices() {
    a = {{3, 5}, init::normal(1.0)};
    bias = {{7}, init::constant(2.0), false};
    b = {{2, 2}, init::uniform(-1, 1)};
  }
  Param a, bias, b;
  void visit(const std::string& prefix, const ParamVisitor& visitor) override {
    visitor(prefix + "a", a);
    visitor(prefix + "bias", bias);
    visitor(prefix + "b", b);
  }
};

TEST(ParamStore, ParametersAreSlicesOfTheFlatBuffers) {
  TwoMatrices module;
  ParamStore store(test_context(), module, DType::kF64, 1);
  EXPECT_EQ(store.num_parameters(), 15 + 7 + 4);
  ASSERT_EQ(store.entries().size(), 3u);
  EXPECT_TRUE(module.bias.var.value().shares_memory_with(store.values()));
  EXPECT_EQ(store.entries()[1].offset % 16, 0);
  EXPECT_EQ(store.values().data<double>()[store.entries()[1].offset], 2.0);
  module.b.var.add_grad(test_context(), random_tensor({2, 2}, DType::kF64, "g"));
  EXPECT_TRUE(bitwise_equal(store.slice(store.bucket_grad(0), store.entries()[2]),
                            random_tensor({2, 2}, DType::kF64, "g")));
}

TEST(ParamStore, GradientsTakeMemoryFromTheFirstOneToTheUpdate) {
  TwoMatrices module;
  ParamStore store(test_context(), module, DType::kF64, 1);
  ShardedAdamW optimizer(store);
  const auto live = [] { return test_context().memory().live_bytes; };
  const size_t before = live();
  size_t reserved = 0;
  EXPECT_FALSE(module.a.var.grad().defined());
  for (int step = 1; step <= 2; ++step) {
    {
      const Tensor g = random_tensor({7}, DType::kF64, "g");
      module.bias.var.add_grad(test_context(), g);
      module.bias.var.add_grad(test_context(), g);
    }
    EXPECT_GE(live(), before + size_t(store.layout().numel()) * sizeof(double));
    optimizer.step({.lr = 0.1, .step = step});
    EXPECT_EQ(live(), before);
    EXPECT_FALSE(module.bias.var.grad().defined());
    // The next step's come from what the allocator keeps.
    if (step > 1) EXPECT_EQ(test_context().memory().reserved_bytes, reserved);
    reserved = test_context().memory().reserved_bytes;
  }
}

TEST(ParamStore, GradientsOfEveryStepBeginAnewAndWhatHasNoneIsZero) {
  TwoMatrices module;
  ParamStore store(test_context(), module, DType::kF64, 1);  // whose memory is poisoned
  const Tensor g = random_tensor({7}, DType::kF64, "g"), h = random_tensor({7}, DType::kF64, "h");
  for (int step = 0; step < 2; ++step) {
    module.bias.var.add_grad(test_context(), g);
    module.bias.var.add_grad(test_context(), h);
    std::vector<double> expected(size_t(store.layout().numel()), 0.0);
    for (size_t i = 0; i < 7; ++i)
      expected[size_t(store.entries()[1].offset) + i] = to_doubles(g)[i] + to_doubles(h)[i];
    EXPECT_EQ(to_doubles(store.bucket_grad(0)), expected);
    store.drop_grads();
  }
  EXPECT_EQ(to_doubles(store.reduced_grad(0)), std::vector<double>(size_t(store.layout().numel()), 0.0));
}

TEST(ParamStore, InitialValuesOfAPartAreThoseOfTheWhole) {
  TwoMatrices whole, part;
  part.a.shape = {3, 2};
  part.a.placement = {.global = {3, 5}, .dim = 1, .ranges = {{1, 2}, {4, 5}}};
  const ParamStore of_whole(test_context(), whole, DType::kF32, 1),
      of_part(test_context(), part, DType::kF32, 1);
  const std::vector<double> all = to_doubles(whole.a.var.value());
  EXPECT_EQ(to_doubles(part.a.var.value()),
            (std::vector<double>{all[1], all[4], all[6], all[9], all[11], all[14]}));
  EXPECT_TRUE(bitwise_equal(whole.b.var.value(), part.b.var.value()));
}

TEST(ParamStore, PaddingIsZeroSoThatNormsOfTheFlatBufferAreExact) {
  TwoMatrices module;
  const ParamStore store(test_context(), module, DType::kF64, 1);
  double in_params = 0, all = 0;
  for (const ParamEntry& entry : store.entries()) {
    for (const double v : to_doubles(entry.param->var.value())) in_params += v * v;
  }
  for (const double v : to_doubles(store.values())) all += v * v;
  EXPECT_DOUBLE_EQ(in_params, all);
}

TEST(ParamStore, SpansCoverTheBufferAndSplitByWeightDecay) {
  TwoMatrices module;
  const ParamStore store(test_context(), module, DType::kF64, 1);
  const std::vector<ParamSpan> spans = store.layout().spans({0, store.layout().numel()});
  ASSERT_EQ(spans.size(), 3u);
  EXPECT_EQ(spans.front().begin, 0);
  EXPECT_EQ(spans.back().end, store.values().numel());
  for (size_t i = 0; i < spans.size(); ++i) {
    EXPECT_EQ(spans[i].weight_decay, i != 1);
    EXPECT_EQ(spans[i].begin, i == 0 ? 0 : spans[i - 1].end);
  }
}

// What a model reads of a parameter, as doubles.
std::vector<double> read_values(const Param& param) {
  return dispatch_storage(param.var.value().dtype(), [&](auto zero) {
    const auto values = param.var.value().to_vector<decltype(zero)>();
    return std::vector<double>(values.begin(), values.end());
  });
}

std::vector<double> rounded(std::vector<double> values) {
  for (double& v : values) v = double(float(BFloat16(v)));
  return values;
}

struct TwoMatricesAndAConvolution : TwoMatrices {
  Param conv;
  TwoMatricesAndAConvolution() { conv = {{5, 1, 4}, init::normal(1.0)}; }
  void visit(const std::string& prefix, const ParamVisitor& visitor) override {
    TwoMatrices::visit(prefix, visitor);
    visitor(prefix + "conv", conv);
  }
};

TEST(ParamStoreInBF16, MatricesAreRoundedCopiesOfF32MastersAndTheRestIsF32) {
  TwoMatricesAndAConvolution module, reference;
  ParamStore store(test_context(), module, DType::kBF16, 1);
  const ParamStore f32(test_context(), reference, DType::kF32, 1);
  EXPECT_EQ(store.values().dtype(), DType::kF32);
  EXPECT_EQ(store.bucket_grad(0).dtype(), DType::kF32);
  for (const auto& [mine, theirs] : {std::pair{&module.a, &reference.a}, {&module.b, &reference.b}}) {
    EXPECT_EQ(mine->var.value().dtype(), DType::kBF16);
    EXPECT_EQ(read_values(*mine), rounded(read_values(*theirs)));
  }
  for (const auto& [mine, theirs] :
       {std::pair{&module.bias, &reference.bias}, {&module.conv, &reference.conv}})
    EXPECT_TRUE(bitwise_equal(mine->var.value(), theirs->var.value()));
  for (int e = 0; e < 4; ++e) {
    const FlatRange all{0, store.entries()[e].param->numel()};
    EXPECT_TRUE(
        bitwise_equal(gather_piece(store, store.values(), e, all), gather_piece(f32, f32.values(), e, all)));
  }
}

TEST(ParamStoreInBF16, ABucketHoldsMatricesAloneOrNone) {
  TwoMatricesAndAConvolution module;
  const ParamStore store(test_context(), module, DType::kBF16, 1);
  ASSERT_EQ(store.buckets().size(), 2u);
  EXPECT_EQ(store.buckets()[0].entries, (std::vector<int>{0, 2}));
  EXPECT_EQ(store.buckets()[1].entries, (std::vector<int>{1, 3}));
  EXPECT_EQ(store.model_values(0).dtype(), DType::kBF16);
  EXPECT_EQ(store.model_values(1).dtype(), DType::kF32);
}

TEST(ParamStoreInBF16, MastersStepAsF32DoesAndCopiesFollow) {
  TwoMatricesAndAConvolution module, reference;
  ParamStore store(test_context(), module, DType::kBF16, 1), f32(test_context(), reference, DType::kF32, 1);
  ShardedAdamW optimizer(store), f32_optimizer(f32);
  // Steps that BF16 weights would lose in rounding.
  for (int step = 1; step <= 3; ++step) {
    for (ParamStore* params : {&store, &f32}) {
      for (const ParamEntry& entry : params->entries())
        entry.param->var.add_grad(test_context(), random_tensor(entry.param->shape, DType::kF32, entry.name));
    }
    for (ShardedAdamW* adamw : {&optimizer, &f32_optimizer})
      adamw->step({.lr = 1e-4, .step = step}, {adamw->squared_grad_norm(), 1.0});
  }
  for (int e = 0; e < 4; ++e) {
    const FlatRange all{0, store.entries()[e].param->numel()};
    const Tensor master = gather_piece(store, store.values(), e, all);
    EXPECT_TRUE(bitwise_equal(master, gather_piece(f32, f32.values(), e, all)));
    const Param& param = *store.entries()[e].param;
    const bool matrix = param.var.value().dtype() == DType::kBF16;
    EXPECT_EQ(read_values(param), matrix ? rounded(to_doubles(master)) : to_doubles(master));
  }
}

TEST(ParamStoreInBF16, ValuesOfACheckpointReachTheModelWhenPublished) {
  TwoMatricesAndAConvolution module;
  const ParamStore store(test_context(), module, DType::kBF16, 1);
  const Tensor source = random_tensor({15}, DType::kF32, "source");
  scatter_piece(store, store.values(), 0, {0, 15}, source);
  store.publish_values();
  EXPECT_EQ(read_values(module.a), rounded(to_doubles(source)));
}

TEST(ParamStore, OfADryContextTakesTheSameMemoryAndWritesNothing) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Context real, dry({.dry = true}), gpu({.device = Device::kCUDA, .dry = true});
    for (Context* ctx : {&real, &dry, &gpu}) {
      TwoMatrices module;
      const ParamStore store(*ctx, module, dtype, 1);
      EXPECT_GT(ctx->memory().live_bytes, 0u);
    }
    EXPECT_EQ(dry.memory().peak_bytes, real.memory().peak_bytes);
    EXPECT_EQ(dry.work().bytes, real.work().bytes);
  }
}

TEST(ParamStore, RefusesTwoParametersOfOneName) {
  struct Twice : TwoMatrices {
    void visit(const std::string& prefix, const ParamVisitor& visitor) override {
      visitor(prefix + "a", a);
      visitor(prefix + "a", b);
    }
  } module;
  EXPECT_THROW(ParamStore(test_context(), module, DType::kF64, 1), Error);
}

}  // namespace
}  // namespace spanwise::testing
