#pragma once
// Which tokens the n-th training sample has: pure functions of (seed, dataset, n), in O(1) memory. Nothing is
// shuffled ahead, stored or shared between ranks.
//
//   sample s of a dataset   tokens [s*T, s*T + T], T + 1 of them: T inputs and, one further, their T labels
//   epoch e of a dataset    its samples in the order of a Permutation keyed by (seed, name, e)
//   a blend of datasets     global sample n -> (dataset, how many of that dataset came before)

#include <cstdint>
#include <string_view>
#include <vector>

namespace spanwise {

/// floor((num_tokens - 1) / sequence_length): the last label of a sample is the first input of the next.
int64_t num_whole_samples(int64_t num_tokens, int64_t sequence_length);

/// A random bijection of [0, size): a Feistel network on the next even power of two, walked until it falls
/// inside (at most 4 turns on average; Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA
/// 2002).
class Permutation {
 public:
  Permutation(int64_t size, uint64_t seed, std::string_view name, int64_t epoch);
  /// i and the result are in [0, size).
  int64_t operator()(int64_t i) const;

 private:
  uint64_t encrypt(uint64_t value) const;

  uint64_t size_, seed_, stream_;
  int half_bits_;
};

/// Interleaves datasets by weight. Among any first n samples, dataset d has n * w_d / sum(w) of them to
/// within 2.
///
/// A binary tree: each node deals its samples to two halves, the left one having round(n * p) of the first n.
/// Such a count rises by 0 or 1, so the place of any sample follows by descent without the samples before it.
/// The tree is Huffman's: weights double every second level towards the root, so the roundings on the path to
/// a leaf, each at most 1/2 and scaled by the share of the leaf in the node, sum to at most 2.
class Blend {
 public:
  struct Place {
    int dataset;
    int64_t index;  // how many of this dataset's samples come before, over all epochs
  };

  /// One weight a dataset, all positive and finite; they need not sum to 1.
  explicit Blend(const std::vector<double>& weights);
  Place operator()(int64_t n) const;

 private:
  struct Node {
    uint64_t left_share;  // p * 2^64
    int left, right;      // a node, or ~d for dataset d
  };
  std::vector<Node> nodes_;
  int root_, num_datasets_;
};

}  // namespace spanwise
