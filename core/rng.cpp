#include "core/rng.h"

#include <cmath>
#include <numbers>

namespace spanwise {

uint64_t hash_name(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325ull;
  for (unsigned char c : name) hash = (hash ^ c) * 0x100000001b3ull;
  return hash;
}

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> x, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * x[0], p1 = uint64_t{0xCD9E8D57u} * x[2];
    x = {uint32_t(p1 >> 32) ^ x[1] ^ key[0], uint32_t(p1), uint32_t(p0 >> 32) ^ x[3] ^ key[1], uint32_t(p0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return x;
}

std::array<uint32_t, 4> RandomStream::block(uint64_t index) const {
  return philox({uint32_t(index), uint32_t(index >> 32), uint32_t(stream_), uint32_t(stream_ >> 32)},
                {uint32_t(seed_), uint32_t(seed_ >> 32)});
}

uint64_t RandomStream::bits(uint64_t index) const {
  const auto b = block(index);
  return uint64_t{b[0]} << 32 | b[1];
}

double RandomStream::uniform(uint64_t index) const {
  return double(bits(index) >> 11) * 0x1p-53;
}

double RandomStream::normal(uint64_t index) const {
  const auto b = block(index);
  // u in (0, 1], so that log(u) is finite.
  const double u = (double((uint64_t{b[0]} << 32 | b[1]) >> 11) + 1.0) * 0x1p-53;
  const double angle = 2.0 * std::numbers::pi * (double((uint64_t{b[2]} << 32 | b[3]) >> 11) * 0x1p-53);
  return std::sqrt(-2.0 * std::log(u)) * std::cos(angle);
}

uint64_t RandomStream::below(uint64_t index, uint64_t n) const {
  // 128-bit multiply: bias below 2^-64 * n.
  return uint64_t((static_cast<unsigned __int128>(bits(index)) * n) >> 64);
}

}  // namespace spanwise
