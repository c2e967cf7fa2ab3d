#pragma once
// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011, "Parallel random numbers: as easy as
// 1, 2, 3"). A value is a pure function of (seed, stream name, index), so weights and sample order are the
// same in every layout, on every rank and after every resume; nothing has to be advanced, saved or restored.

#include <array>
#include <cstdint>
#include <string_view>

namespace spanwise {

/// 64-bit FNV-1a of a name: the stream key. Stable across machines and versions.
uint64_t hash_name(std::string_view name);

/// One Philox4x32-10 block.
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

class RandomStream {
 public:
  /// The stream named `name` under `seed`; e.g. (run.seed, "model.layers.0.attn.q_proj.weight").
  RandomStream(uint64_t seed, std::string_view name) : seed_(seed), stream_(hash_name(name)) {}
  RandomStream(uint64_t seed, uint64_t stream) : seed_(seed), stream_(stream) {}

  /// 64 random bits at `index`.
  uint64_t bits(uint64_t index) const;
  /// Uniform in [0, 1), 53 bits.
  double uniform(uint64_t index) const;
  double uniform(uint64_t index, double low, double high) const {
    return low + (high - low) * uniform(index);
  }
  /// Standard normal (Box–Muller on the two halves of the block at `index`).
  double normal(uint64_t index) const;
  /// Uniform integer in [0, n), n > 0.
  uint64_t below(uint64_t index, uint64_t n) const;

 private:
  std::array<uint32_t, 4> block(uint64_t index) const;
  uint64_t seed_, stream_;
};

}  // namespace spanwise
