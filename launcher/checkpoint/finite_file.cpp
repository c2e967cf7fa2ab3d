#include "launcher/checkpoint/finite_file.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/check.h"

namespace spanwise {

namespace {

constexpr uint64_t kPieceBytes = 16 << 20;

// The exponent's bits: all set in NaNs and infinities. 0 for other types.
uint64_t exponent_of(std::string_view dtype) {
  if (dtype == "F64") return 0x7ff0'0000'0000'0000;
  if (dtype == "F32") return 0x7f80'0000;
  if (dtype == "BF16") return 0x7f80;
  return dtype == "F16" ? 0x7c00 : 0;
}

template <class Word>
int64_t count_not_finite(const std::vector<char>& bytes, size_t num_bytes, uint64_t exponent) {
  const Word* words = reinterpret_cast<const Word*>(bytes.data());
  return std::count_if(words, words + num_bytes / sizeof(Word),
                       [&](Word word) { return (word & Word(exponent)) == Word(exponent); });
}

int64_t count_not_finite(const SafetensorsReader& reader, const SafetensorsInfo& tensor) {
  const uint64_t exponent = exponent_of(tensor.dtype);
  if (exponent == 0) return 0;
  std::vector<char> piece(std::min(kPieceBytes, tensor.bytes));
  int64_t count = 0;
  for (uint64_t begin = 0; begin < tensor.bytes; begin += piece.size()) {
    const size_t bytes = std::min<uint64_t>(piece.size(), tensor.bytes - begin);
    reader.read_part(tensor.name, begin, piece.data(), bytes);
    switch (safetensors_dtype_bytes(tensor.dtype)) {
      case 8:
        count += count_not_finite<uint64_t>(piece, bytes, exponent);
        break;
      case 4:
        count += count_not_finite<uint32_t>(piece, bytes, exponent);
        break;
      default:
        count += count_not_finite<uint16_t>(piece, bytes, exponent);
    }
  }
  return count;
}

}  // namespace

std::string not_finite_in(const SafetensorsReader& reader) {
  std::string first;
  int64_t more = 0;
  for (const SafetensorsInfo& tensor : reader.tensors()) {
    const int64_t count = count_not_finite(reader, tensor);
    if (count == 0) continue;
    if (!first.empty()) ++more;
    if (first.empty()) {
      first = fmt::format("{} has {} of {} elements that are not finite", tensor.name, count,
                          tensor.bytes / safetensors_dtype_bytes(tensor.dtype));
    }
  }
  if (more > 0)
    first +=
        fmt::format(", and so {} {} more tensor{}", more == 1 ? "has" : "have", more, more == 1 ? "" : "s");
  return first;
}

}  // namespace spanwise
