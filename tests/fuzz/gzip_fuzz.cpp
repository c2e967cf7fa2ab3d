// Packed text for `data prepare`.

#include "tests/fuzz/fuzz_text.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  spanwise::fuzz::unpack("text.txt.gz", {data, size});
  return 0;
}
