#include "core/ops/embedding.h"

#include "tests/testing/cuda_precisions.h"

namespace spanwise::testing {
namespace {

// Ids of a skewed distribution: one fills a third of the tokens.
std::vector<int32_t> tokens_of(int64_t count, int64_t vocab) {
  const RandomStream random(7, "tokens");
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i)
    tokens.push_back(i % 3 == 0 ? int32_t(vocab / 2) : int32_t(random.below(uint64_t(i), uint64_t(vocab))));
  return tokens;
}

OpFunction lookup(const std::vector<int32_t>& tokens, DimPart part = {}) {
  return [=](Tape& tape, const std::vector<Var>& v) {
    return std::vector<Var>{embedding(tape, tokens, {1, int64_t(tokens.size())}, v[0], part)};
  };
}

TEST(CudaEmbedding, EqualsTheCpuForEveryWidthAndNumberOfTokens) {
  for (const CudaPrecision& p : kCudaPrecisions) {
    for (const int64_t width : {1, 30, 64, 1024, 2048}) {
      for (const int64_t count : {1, 100, 2500}) {
        SCOPED_TRACE(fmt::format("{} width {} tokens {}", name_of(p.dtype), width, count));
        check_on_cuda(lookup(tokens_of(count, 57)), {activation_operand(normal64({57, width}, "w"), p)},
                      {p.bounds.output});
      }
    }
  }
}

TEST(CudaEmbedding, APartOfTheVocabularyGivesZerosForOtherIds) {
  for (const CudaPrecision& p : kCudaPrecisions) {
    check_on_cuda(lookup(tokens_of(300, 60), {.begin = 20, .whole = 60}),
                  {activation_operand(normal64({20, 64}, "w"), p)}, {p.bounds.output});
  }
}

TEST(CudaEmbedding, GradientsAddToWhatIsThere) {
  const auto tokens = tokens_of(500, 40);
  const OpFunction twice = [&](Tape& tape, const std::vector<Var>& v) {
    return std::vector<Var>{embedding(tape, tokens, {1, 500}, v[0]), embedding(tape, tokens, {500, 1}, v[0])};
  };
  for (const CudaPrecision& p : kCudaPrecisions) {
    check_on_cuda(twice, {activation_operand(normal64({40, 96}, "w"), p)},
                  {p.bounds.output, p.bounds.output});
  }
}

}  // namespace
}  // namespace spanwise::testing
