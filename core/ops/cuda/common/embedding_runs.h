#pragma once
// How the gradient of an embedding is cut on a GPU. No CUDA types: dry runs ask, too.

#include <cstdint>
#include <vector>

namespace spanwise::cuda {

/// Up to kMost occurrences of one token: positions order[begin … end), whose dy are added in that order, to
/// row `to` of dW where the run is the token's only one, else to partial `to`.
struct EmbeddingRun {
  static constexpr int kMost = 32;
  int32_t begin, end, to, whole;
};
/// A token's partials [begin, end), added in order to row `token` of dW.
struct EmbeddingFold {
  int32_t begin, end, token;
};

struct SortedTokens {
  std::vector<int32_t> order;
  std::vector<EmbeddingRun> runs;
  std::vector<EmbeddingFold> folds;
  int64_t partials = 0;
};

/// Tokens sorted by id, each id's in the order of the batch. Ids outside [0, vocab) have no gradient.
SortedTokens sort_tokens(const std::vector<int32_t>& tokens, int64_t vocab);

}  // namespace spanwise::cuda
