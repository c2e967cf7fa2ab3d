// metrics.jsonl as a start finds it.

#include "launcher/metrics/history.h"
#include "tests/fuzz/fuzz_file.h"

using namespace spanwise;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::filesystem::path path = fuzz::file("metrics.jsonl", {data, size});
  fuzz::expect_answer("metrics.jsonl", [&] { rewind_history(path, 5, 8); });
  return 0;
}
