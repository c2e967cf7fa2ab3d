// A safetensors file: the header, and what a loader asks of every tensor.

#include <algorithm>

#include "models/hf/safetensors.h"
#include "tests/fuzz/fuzz_file.h"

using namespace spanwise;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::filesystem::path path = fuzz::file("m.safetensors", {data, size});
  fuzz::expect_answer("m.safetensors", [&] {
    const SafetensorsReader reader(path);
    for (const SafetensorsInfo& info : reader.tensors()) {
      std::vector<uint8_t> bytes(size_t(std::min<uint64_t>(info.bytes, 256)));
      reader.read_part(info.name, info.bytes - bytes.size(), bytes.data(), bytes.size());
    }
  });
  return 0;
}
