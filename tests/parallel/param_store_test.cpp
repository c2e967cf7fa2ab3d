#include "parallel/param_store.h"

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
  const ParamStore store(test_context(), module, DType::kF64, 1);
  EXPECT_EQ(store.num_parameters(), 15 + 7 + 4);
  ASSERT_EQ(store.entries().size(), 3u);
  EXPECT_TRUE(module.bias.var.value().shares_memory_with(store.values()));
  EXPECT_EQ(store.entries()[1].offset % 16, 0);
  EXPECT_EQ(store.values().data<double>()[store.entries()[1].offset], 2.0);
  module.b.var.add_grad(test_context(), random_tensor({2, 2}, DType::kF64, "g"));
  EXPECT_TRUE(
      bitwise_equal(store.slice(store.grads(), store.entries()[2]), random_tensor({2, 2}, DType::kF64, "g")));
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
