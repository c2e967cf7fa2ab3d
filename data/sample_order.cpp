#include "data/sample_order.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <queue>

#include "core/check.h"
#include "core/rng.h"

namespace spanwise {
namespace {

constexpr int kRounds = 6;

/// round(n * share / 2^64), exactly: in floating point it could rise by 2 at a rounding.
int64_t left_count(int64_t n, uint64_t share) {
  constexpr auto kHalf = static_cast<unsigned __int128>(1) << 63;
  return int64_t((static_cast<unsigned __int128>(n) * share + kHalf) >> 64);
}

}  // namespace

int64_t num_whole_samples(int64_t num_tokens, int64_t sequence_length) {
  SPANWISE_CHECK(sequence_length > 0, "sequence_length={}", sequence_length);
  return num_tokens < 1 ? 0 : (num_tokens - 1) / sequence_length;
}

Permutation::Permutation(int64_t size, uint64_t seed, std::string_view name, int64_t epoch)
    : size_(size), seed_(seed), stream_(hash_name(fmt::format("{}/epoch.{}", name, epoch))) {
  SPANWISE_CHECK(size > 0, "a permutation of {} elements", size);
  half_bits_ = std::max(1, (int(std::bit_width(size_ - 1)) + 1) / 2);
}

uint64_t Permutation::encrypt(uint64_t value) const {
  const RandomStream random(seed_, stream_);
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t left = value >> half_bits_, right = value & mask;
  for (uint64_t round = 0; round < kRounds; ++round) {
    const uint64_t mixed = left ^ (random.bits(round << 32 | right) & mask);
    left = right;
    right = mixed;
  }
  return left << half_bits_ | right;
}

int64_t Permutation::operator()(int64_t i) const {
  SPANWISE_CHECK(i >= 0 && uint64_t(i) < size_, "element {} of a permutation of {}", i, size_);
  uint64_t value = encrypt(i);
  while (value >= size_) value = encrypt(value);
  return int64_t(value);
}

Blend::Blend(const std::vector<double>& weights) : num_datasets_(int(weights.size())) {
  SPANWISE_CHECK(!weights.empty(), "a blend of no datasets");
  struct Subtree {
    double weight;
    int node, order;  // order breaks ties, so that the tree is the same everywhere
    bool operator>(const Subtree& other) const {
      return weight != other.weight ? weight > other.weight : order > other.order;
    }
  };
  std::priority_queue<Subtree, std::vector<Subtree>, std::greater<>> forest;
  for (int d = 0; d < num_datasets_; ++d)
    SPANWISE_CHECK(weights[d] > 0 && std::isfinite(weights[d]), "dataset {} has weight {}", d, weights[d]);
  // Their sum must be finite. A power of two changes no share's bits.
  const int exponent = std::ilogb(*std::max_element(weights.begin(), weights.end()));
  for (int d = 0; d < num_datasets_; ++d) {
    const double scaled = std::max(std::ldexp(weights[d], -exponent), std::numeric_limits<double>::min());
    forest.push({scaled, ~d, d});
  }
  auto take = [&] {
    const Subtree smallest = forest.top();
    forest.pop();
    return smallest;
  };
  while (forest.size() > 1) {
    const Subtree left = take(), right = take();
    const double weight = left.weight + right.weight;
    // The left subtree is the lighter one: p <= 1/2, so p * 2^64 fits.
    nodes_.push_back({uint64_t(std::ldexp(left.weight / weight, 64)), left.node, right.node});
    forest.push({weight, int(nodes_.size()) - 1, num_datasets_ + int(nodes_.size())});
  }
  root_ = forest.top().node;
}

Blend::Place Blend::operator()(int64_t n) const {
  SPANWISE_CHECK(n >= 0, "sample {} of a blend", n);
  int at = root_;
  while (at >= 0) {
    const Node& node = nodes_[at];
    const int64_t before = left_count(n, node.left_share);
    const bool is_left = left_count(n + 1, node.left_share) > before;
    at = is_left ? node.left : node.right;
    n = is_left ? before : n - before;
  }
  return {~at, n};
}

}  // namespace spanwise
