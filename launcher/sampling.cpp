#include "launcher/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/rng.h"
#include "data/incremental_decoder.h"

namespace spanwise {

namespace {

// The logits of the tokenizer's tokens: a model's vocabulary may be padded beyond them.
Tensor known_logits(const Tensor& logits, const Tokenizer& tokenizer) {
  return logits.slice_flat(0, {tokenizer.vocab_size()});
}

std::vector<double> probabilities(const Tensor& logits, double temperature) {
  std::vector<double> p;
  dispatch_storage(logits.dtype(), [&](auto zero) {
    const auto values = logits.to_vector<decltype(zero)>();
    p.assign(values.begin(), values.end());
  });
  const double largest = *std::max_element(p.begin(), p.end());
  double sum = 0;
  for (double& x : p) sum += x = std::exp((x - largest) / temperature);
  if (!std::isfinite(sum)) {
    fail_user("the model's logits are not finite: there is no next token to draw; use an earlier checkpoint");
  }
  for (double& x : p) x /= sum;
  return p;
}

}  // namespace

int32_t sample_token(const Tensor& logits, const SamplingOptions& options, int64_t index) {
  std::vector<int32_t> order(size_t(logits.numel()));
  std::iota(order.begin(), order.end(), 0);
  const std::vector<double> p = probabilities(logits, options.temperature > 0 ? options.temperature : 1.0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return p[a] > p[b]; });
  if (options.temperature <= 0) return order[0];

  size_t kept = 0;
  double mass = 0;
  while (kept < order.size() && (kept == 0 || mass < options.top_p)) mass += p[order[kept++]];
  double at = RandomStream(options.seed, "generate").uniform(uint64_t(index)) * mass;
  for (size_t i = 0; i < kept; ++i) {
    at -= p[order[i]];
    if (at < 0) return order[i];
  }
  return order[kept - 1];
}

std::string generate(const LanguageModel& model, const Tokenizer& tokenizer, Context& ctx,
                     const std::string& prompt, const SamplingOptions& options,
                     const std::function<void(const std::string&)>& emit) {
  std::vector<int32_t> ids = tokenizer.encode(prompt);
  if (options.document_start) ids.insert(ids.begin(), *options.document_start);
  if (ids.empty()) ids.push_back(tokenizer.end_of_document());
  GenerationState state;
  Tensor logits = model.next_logits(ctx, ids, state);

  IncrementalDecoder decoder(tokenizer, ids);
  std::string text;
  const auto show = [&](const std::string& piece) {
    if (emit && !piece.empty()) emit(piece);
    text += piece;
  };
  for (int64_t i = 0; i < options.num_tokens; ++i) {
    if (options.stop && options.stop()) break;
    const int32_t next = sample_token(known_logits(logits, tokenizer), options, i);
    if (next == tokenizer.end_of_document()) break;
    show(decoder.push(next));
    if (i + 1 < options.num_tokens) logits = model.next_logits(ctx, {next}, state);
  }
  show(decoder.finish());
  return text;
}

}  // namespace spanwise
