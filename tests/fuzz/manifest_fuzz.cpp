// A checkpoint's manifest: the bytes as they are, and with the checksum line that makes the rest be read. One
// that is read is compared with a directory that has nothing else.

#include "core/crc32c.h"
#include "launcher/checkpoint/manifest_file.h"
#include "launcher/checkpoint/open_checkpoint.h"
#include "tests/fuzz/fuzz_file.h"

using namespace spanwise;

namespace {

void verify(const std::string& content) {
  static const std::filesystem::path checkpoint = [] {
    const std::filesystem::path made = fuzz::directory() / "step_00000001";
    std::filesystem::create_directories(made);
    return made;
  }();
  fuzz::expect_answer("step_00000001", [&] {
    parse_manifest(content, checkpoint / "manifest.textproto");
    fuzz::file("step_00000001/manifest.textproto",
               {reinterpret_cast<const uint8_t*>(content.data()), content.size()});
    verify_checkpoint(checkpoint);
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(fuzz::text_of({data, size}));
  verify(text);
  verify(text + fmt::format("# crc32c: {:08x}\n", crc32c(text.data(), text.size())));
  return 0;
}
