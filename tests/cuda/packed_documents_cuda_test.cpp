// What holds for every mixer whose rows hold several documents.

#include <cmath>

#include "core/ops/gated_delta.h"
#include "core/ops/scalar_decay.h"
#include "core/ops/softmax_attention.h"
#include "core/shared_upload.h"
#include "tests/testing/cuda_testing.h"
#include "tests/testing/linear_state_testing.h"

namespace spanwise::testing {
namespace {

constexpr int64_t kTokens = 300, kHeads = 2;
/// The one in the middle neither starts nor ends a chunk or a block.
constexpr int64_t kMiddleBegin = 100, kMiddleEnd = 230;

/// q, k, v [1, T, heads, width] and gates [1, T, heads] to outputs like v; an undefined Var where it has no
/// use.
struct Mixer {
  const char* name;
  int num_operands;  ///< of q, k, v, log decay, beta
  std::function<Var(Tape&, const std::vector<Var>&, const SequenceLayout&, double scale)> mix;
};

const Mixer kDelta{"gated delta rule", 5,
                   [](Tape& tape, const std::vector<Var>& x, const SequenceLayout& layout, double scale) {
                     return gated_delta(tape, operand_list(x), layout, {.scale = scale}).out;
                   }};
const Mixer kScalar{"scalar decay", 4,
                    [](Tape& tape, const std::vector<Var>& x, const SequenceLayout& layout, double scale) {
                      return scalar_decay(tape, operand_list(x), layout, {.scale = scale}).out;
                    }};
const Mixer kSoftmax{"softmax attention", 3,
                     [](Tape& tape, const std::vector<Var>& x, const SequenceLayout& layout, double scale) {
                       return softmax_attention(tape, x[0], x[1], x[2], causal_key_ranges(layout, 0), scale);
                     }};

/// F64 on the CPU; the middle document's are NaN if asked for.
Tensor operand(int index, int64_t width, bool bad_middle) {
  const bool gate = index >= 3;
  const char* names[] = {"q", "k", "v", "log decay", "beta"};
  const Tensor t = random_tensor(gate ? Shape{1, kTokens, kHeads} : Shape{1, kTokens, kHeads, width},
                                 DType::kF64, names[index], index < 2 ? 1 / std::sqrt(double(width)) : 0.3);
  double* values = t.data<double>();
  const int64_t row = t.numel() / kTokens;
  for (int64_t i = 0; i < t.numel(); ++i) {
    if (index == 3) values[i] = -std::abs(values[i]);
    if (index == 4) values[i] = 0.5 + 0.4 * std::sin(values[i]);
    if (bad_middle && i / row >= kMiddleBegin && i / row < kMiddleEnd) values[i] = std::nan("");
  }
  return t;
}

/// The output and every operand's gradient.
std::vector<Tensor> run(const Mixer& mixer, DType dtype, int64_t width, bool bad_middle) {
  Context& ctx = cuda_context();
  std::vector<Var> x;
  for (int i = 0; i < mixer.num_operands; ++i)
    x.push_back(Var(to_cuda(operand(i, width, bad_middle), i < 3 ? dtype : DType::kF32), true));
  Tape tape(ctx);
  const Var out = mixer.mix(tape, x, SequenceLayout(1, kTokens, {0, kMiddleBegin, kMiddleEnd}),
                            1 / std::sqrt(double(width)));
  tape.backward({out}, {to_cuda(operand(2, width, bad_middle), dtype)});
  std::vector<Tensor> results{to_cpu64(out.value())};
  for (const Var& v : x) results.push_back(to_cpu64(v.grad()));
  return results;
}

void expect_nan_stays_in_its_document(const Mixer& mixer) {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const int64_t width : {64, 128, 256}) {
      SCOPED_TRACE(fmt::format("{} {} width {}", mixer.name, name_of(dtype), width));
      const std::vector<Tensor> clean = run(mixer, dtype, width, false), bad = run(mixer, dtype, width, true);
      for (size_t r = 0; r < clean.size(); ++r) {
        const std::vector<double> expected = to_doubles(clean[r]), actual = to_doubles(bad[r]);
        const int64_t row = clean[r].numel() / kTokens;
        int64_t differ = 0, stayed = 0;
        for (int64_t i = 0; i < clean[r].numel(); ++i) {
          const bool middle = i / row >= kMiddleBegin && i / row < kMiddleEnd;
          (middle ? stayed : differ) += middle ? std::isnan(actual[i]) : actual[i] != expected[i];
        }
        EXPECT_EQ(differ, 0) << "values of other documents, result " << r;
        EXPECT_GT(stayed, 0) << "result " << r;
      }
    }
  }
}

// Softmax attention is not among them: what a query does not read is multiplied by a probability of zero
// where it lies in a block with what the query reads.
TEST(CudaPackedDocuments, NanStaysInItsDocumentInTheDeltaRule) {
  expect_nan_stays_in_its_document(kDelta);
}

TEST(CudaPackedDocuments, NanStaysInItsDocumentInScalarDecay) {
  expect_nan_stays_in_its_document(kScalar);
}

// Every layer, forward and backward, reads the same segments, chunks and key ranges.
TEST(CudaPackedDocuments, LaterLayersUploadNothingOfTheLayout) {
  for (const Mixer& mixer : {kDelta, kScalar, kSoftmax}) {
    run(mixer, DType::kBF16, 64, false);
    const SharedUploads& uploads = cuda_context().attached<SharedUploads>();
    const int64_t before = uploads.num_uploads();
    run(mixer, DType::kBF16, 64, false);
    EXPECT_EQ(uploads.num_uploads(), before) << mixer.name;
  }
}

}  // namespace
}  // namespace spanwise::testing
