// Packed text for `data prepare`.

#include "tests/fuzz/fuzz_text.h"

using namespace spanwise;

/// The file with a small window where it declares more than 1 MiB that is not refused: such memory is
/// allocated for each case, and its shadow costs more than the case. The header is that of RFC 8878.
static std::vector<uint8_t> with_small_window(fuzz::Bytes bytes) {
  std::vector<uint8_t> file(bytes.begin(), bytes.end());
  if (file.size() < 7) return file;
  const uint8_t descriptor = file[5];
  const bool declares_content = descriptor & 0x20;
  if (!declares_content) {
    const int log = 10 + (file[6] >> 3);
    if (log > 20 && log <= 27) file[6] &= 7;
  } else if (descriptor >= 0x80) {  // in four or eight bytes
    for (size_t i = 8; i < std::min<size_t>(file.size(), descriptor >= 0xc0 ? 14 : 10); ++i) file[i] = 0;
  }
  return file;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::unpack("text.txt.zst", with_small_window({data, size}));
  return 0;
}
