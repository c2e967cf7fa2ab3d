// Text for `data prepare`: the same bytes as .jsonl and as .txt, packed and not, refused and replaced.

#include "data/text_files.h"
#include "data/utf8.h"
#include "tests/fuzz/fuzz_file.h"

using namespace spanwise;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  for (const char* name : {"text.jsonl", "text.txt", "text.txt.gz", "text.txt.zst"}) {
    const std::string path = fuzz::file(name, {data, size}).string();
    for (const InvalidUtf8 invalid : {InvalidUtf8::kRefuse, InvalidUtf8::kReplace}) {
      fuzz::expect_answer(name, [&] {
        const TextFileOptions options{.inputs = {path}, .document_separator = "-", .invalid_utf8 = invalid};
        DocumentReader reader(options);
        while (const auto document = reader.next()) {
          const std::string text = document_text(*document, options);
          SPANWISE_CHECK(valid_utf8(text) == text.size(), "{} gave what is not UTF-8", name);
        }
      });
    }
  }
  return 0;
}
