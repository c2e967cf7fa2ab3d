// A checkpoint's manifest: the bytes as they are, and with the checksum line that makes the rest be read.

#include "core/crc32c.h"
#include "launcher/checkpoint/open_checkpoint.h"
#include "tests/fuzz/fuzz_file.h"

using namespace spanwise;

namespace {

void verify(std::string_view content) {
  const std::filesystem::path checkpoint = fuzz::directory() / "step_00000001";
  std::filesystem::create_directories(checkpoint);
  fuzz::file("step_00000001/manifest.textproto",
             {reinterpret_cast<const uint8_t*>(content.data()), content.size()});
  fuzz::expect_answer("step_00000001", [&] { verify_checkpoint(checkpoint); });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(fuzz::text_of({data, size}));
  verify(text);
  verify(text + fmt::format("# crc32c: {:08x}\n", crc32c(text.data(), text.size())));
  return 0;
}
