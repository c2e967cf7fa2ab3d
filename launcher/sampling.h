#pragma once
// Text from a model, one token at a time.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "data/tokenizer.h"
#include "models/language_model.h"

namespace spanwise {

struct SamplingOptions {
  int64_t num_tokens = 64;
  double temperature = 0.8;  ///< 0: always the likeliest token
  double top_p = 0.95;  ///< nucleus: the fewest tokens that hold this much probability (arXiv 1904.09751)
  uint64_t seed = 1;
  std::optional<int32_t> document_start =
      {};                           ///< the token before the prompt: start_token() of the run's rule
  std::function<bool()> stop = {};  ///< asked before each token; true ends the text there
};

/// A token drawn from logits [vocab]: a pure function of (logits, options, index).
int32_t sample_token(const Tensor& logits, const SamplingOptions& options, int64_t index);

/// Continues `prompt`, with which a document begins: behind options.document_start, or, where the run has no
/// such token, with the prompt itself (and if that is empty behind an end of document). Calls `emit` with
/// each new piece of text; stops at the end of the document. Returns the text without the prompt. State is
/// constant in size for linear layers.
std::string generate(const LanguageModel& model, const Tokenizer& tokenizer, Context& ctx,
                     const std::string& prompt, const SamplingOptions& options,
                     const std::function<void(const std::string&)>& emit = {});

}  // namespace spanwise
