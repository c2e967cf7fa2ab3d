#pragma once
// Counts that are each in range multiply to sizes that are not: 2^27 heads of 2^27 channels are 2^54
// channels, and a matrix of these more elements than 64 bits hold. Plans, tensors and matrix products count
// in integers, so such a config is refused before any of them sees it.

#include <optional>
#include <string>
#include <vector>

#include "launcher/config/config.h"

namespace spanwise {

// Widths are 32-bit arguments of BLAS, and so are the tokens that a rank has at once, of which lists are made
// as well. What a rank holds is a few dozen of the products below of 8 bytes each, and a step's traffic a few
// dozen of those over its passes: both stay below 2^63.
constexpr int64_t kMostWidth = 1'000'000'000, kMostTokensAtOnce = 2'000'000'000;
constexpr double kMostElements = 1e15, kMostElementsAStep = 5e16, kMostTokens = 4e18;

/// One sentence naming the fields of the first product that is above its limit, or none. For a config of
/// which every field is in its range. Products are taken in double, which holds them all.
std::vector<std::string> size_problems(const RunConfig& config, int world_size,
                                       std::optional<int64_t> tokenizer_vocab_size);

}  // namespace spanwise
