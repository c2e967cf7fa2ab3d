#pragma once
// What a dataset's tokens alone say about it.

#include "data/indexed_dataset.h"

namespace spanwise {

/// Entropy of the token frequencies, nats a token: the loss of the best model that ignores all context, hence
/// what any model worth training must get well below. 0 for an empty dataset.
double unigram_entropy(const IndexedDataset& dataset);

}  // namespace spanwise
