// Records for `data prepare`, one a line.

#include "tests/fuzz/fuzz_text.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  spanwise::fuzz::read_documents("text.jsonl", {data, size});
  return 0;
}
