// The table of a dataset: the bytes as they are, and under a checksum that fits.

#include "core/crc32c.h"
#include "data/dataset_meta.h"
#include "tests/fuzz/fuzz_file.h"

using namespace spanwise;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  fuzz::expect_answer("x.meta.json", [&] { parse_meta(text, "x.meta.json"); });
  const std::string closed =
      text + fmt::format("  \"meta_crc32c\": \"{:08x}\"\n}}\n", crc32c(text.data(), text.size()));
  fuzz::expect_answer("x.meta.json", [&] {
    const DatasetMeta meta = parse_meta(closed, "x.meta.json");
    SPANWISE_CHECK(parse_meta(print_meta(meta), "x.meta.json") == meta,
                   "what is read is not what is written");
  });
  return 0;
}
