#include "core/ops/cuda/common/embedding_runs.h"

#include <algorithm>

namespace spanwise::cuda {

SortedTokens sort_tokens(const std::vector<int32_t>& tokens, int64_t vocab) {
  std::vector<int32_t> begin(size_t(vocab) + 1, 0);
  const auto known = [&](int32_t token) { return token >= 0 && token < vocab; };
  for (const int32_t token : tokens) {
    if (known(token)) ++begin[token + 1];
  }
  for (int64_t v = 0; v < vocab; ++v) begin[v + 1] += begin[v];
  SortedTokens sorted;
  sorted.order.resize(size_t(begin[vocab]));
  std::vector<int32_t> next(begin.begin(), begin.end() - 1);
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (known(tokens[i])) sorted.order[next[tokens[i]]++] = int32_t(i);
  }
  for (int32_t v = 0; v < vocab; ++v) {
    const bool whole = begin[v + 1] - begin[v] <= EmbeddingRun::kMost;
    const int32_t first_partial = int32_t(sorted.partials);
    for (int32_t at = begin[v]; at < begin[v + 1]; at += EmbeddingRun::kMost) {
      const int32_t end = std::min(at + EmbeddingRun::kMost, begin[v + 1]);
      sorted.runs.push_back({at, end, whole ? v : int32_t(sorted.partials++), whole ? 1 : 0});
    }
    if (!whole) sorted.folds.push_back({first_partial, int32_t(sorted.partials), v});
  }
  return sorted;
}

}  // namespace spanwise::cuda
