#include "launcher/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/rng.h"

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
  for (double& x : p) x /= sum;
  return p;
}

// Length of the longest prefix of `text` that does not end inside a UTF-8 character.
size_t whole_characters(const std::string& text) {
  size_t end = text.size(), back = 0;
  while (back < 4 && back < end && (static_cast<unsigned char>(text[end - 1 - back]) & 0xC0) == 0x80) ++back;
  if (back == end || back == 4) return end;
  const unsigned char lead = static_cast<unsigned char>(text[end - 1 - back]);
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
  return length > back + 1 ? end - 1 - back : end;
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
  if (ids.empty()) ids.push_back(tokenizer.end_of_document());
  GenerationState state;
  Tensor logits = model.next_logits(ctx, ids, state);

  // Decoding everything again for each token keeps characters that span tokens whole.
  const size_t prompt_bytes = tokenizer.decode(ids).size();
  size_t shown = prompt_bytes;
  std::string text = tokenizer.decode(ids);
  for (int64_t i = 0; i < options.num_tokens; ++i) {
    const int32_t next = sample_token(known_logits(logits, tokenizer), options, i);
    if (next == tokenizer.end_of_document()) break;
    ids.push_back(next);
    text = tokenizer.decode(ids);
    const size_t whole = i + 1 == options.num_tokens ? text.size() : whole_characters(text);
    if (emit && whole > shown) {
      emit(text.substr(shown, whole - shown));
      shown = whole;
    }
    if (i + 1 < options.num_tokens) logits = model.next_logits(ctx, {next}, state);
  }
  return text.substr(std::min(prompt_bytes, text.size()));
}

}  // namespace spanwise
