#include "data/statistics.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>
#include <vector>

namespace spanwise {

double unigram_entropy(const IndexedDataset& dataset) {
  constexpr int64_t kBlock = 1 << 16;
  std::unordered_map<int32_t, int64_t> counts;
  std::vector<int32_t> block(kBlock);
  const int64_t num_tokens = dataset.num_tokens();
  for (int64_t at = 0; at < num_tokens; at += kBlock) {
    const int64_t count = std::min(kBlock, num_tokens - at);
    dataset.read(at, count, block.data());
    for (int64_t i = 0; i < count; ++i) ++counts[block[i]];
  }
  double entropy = 0;
  for (const auto& [token, count] : counts) {
    const double frequency = double(count) / double(num_tokens);
    entropy -= frequency * std::log(frequency);
  }
  return entropy;
}

}  // namespace spanwise
