#include "core/crc32c.h"

#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

namespace spanwise {
namespace {

TEST(Crc32c, GivesThePublishedCheckValues) {
  EXPECT_EQ(crc32c("123456789", 9), 0xE3069283u);
  EXPECT_EQ(crc32c("", 0), 0u);
  // RFC 3720, appendix B.4: 32 bytes of zeros, of ones, and counting up.
  EXPECT_EQ(crc32c(std::string(32, '\0').data(), 32), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xFF').data(), 32), 0x62A8AB43u);
  std::vector<unsigned char> ascending(32);
  std::iota(ascending.begin(), ascending.end(), 0);
  EXPECT_EQ(crc32c(ascending.data(), 32), 0x46DD794Eu);
}

TEST(Crc32c, OfPartsEqualsOfTheWholeForEverySplit) {
  std::string text;
  for (int i = 0; i < 41; ++i) text += static_cast<char>(i * 37);
  const uint32_t whole = crc32c(text.data(), text.size());
  for (size_t split = 0; split <= text.size(); ++split) {
    const uint32_t first = crc32c(text.data(), split);
    EXPECT_EQ(crc32c(text.data() + split, text.size() - split, first), whole) << "split at " << split;
  }
}

// Bit by bit, as the polynomial says.
uint32_t plain_crc32c(const unsigned char* p, size_t bytes) {
  uint32_t crc = ~0u;
  for (size_t i = 0; i < bytes; ++i) {
    crc ^= p[i];
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0x82F63B78u : 0u);
  }
  return ~crc;
}

std::vector<unsigned char> some_bytes(size_t bytes) {
  std::vector<unsigned char> data(bytes);
  uint32_t state = 1;
  for (unsigned char& byte : data) byte = (state = state * 1664525u + 1013904223u) >> 24;
  return data;
}

TEST(Crc32c, OfLongBytesAtAnyAlignmentIsThatOfThePolynomial) {
  const std::vector<unsigned char> data = some_bytes(60'000);
  for (const size_t begin : {0, 1, 3, 7}) {
    for (const size_t bytes : {0, 1, 7, 8, 9, 8192, 24'575, 24'576, 24'577, 49'152, 59'990}) {
      EXPECT_EQ(crc32c(&data[begin], bytes), plain_crc32c(&data[begin], bytes)) << bytes << " from " << begin;
    }
  }
}

TEST(Crc32c, OfTwoPartsIsCombinedFromTheirsWithoutTheBytes) {
  const std::vector<unsigned char> data = some_bytes(70'000);
  const uint32_t whole = crc32c(data.data(), data.size());
  for (const size_t split : {0, 1, 8, 4096, 65'535, 69'999, 70'000}) {
    const size_t rest = data.size() - split;
    EXPECT_EQ(crc32c_combine(crc32c(data.data(), split), crc32c(data.data() + split, rest), rest), whole)
        << "split at " << split;
  }
}

TEST(Crc32c, ChangesWithEveryFlippedBit) {
  std::string text(64, 'x');
  const uint32_t whole = crc32c(text.data(), text.size());
  for (size_t bit = 0; bit < 8 * text.size(); ++bit) {
    text[bit / 8] ^= static_cast<char>(1 << bit % 8);
    EXPECT_NE(crc32c(text.data(), text.size()), whole) << "bit " << bit;
    text[bit / 8] ^= static_cast<char>(1 << bit % 8);
  }
}

}  // namespace
}  // namespace spanwise
