// Text for `data prepare`: the same bytes as .jsonl and as .txt.

#include "data/text_files.h"
#include "tests/fuzz/fuzz_file.h"

using namespace spanwise;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  for (const char* name : {"text.jsonl", "text.txt"}) {
    const std::string path = fuzz::file(name, {data, size}).string();
    fuzz::expect_answer(name, [&] {
      TextFileOptions options;
      options.inputs = {path};
      DocumentReader reader(options);
      while (const auto document = reader.next()) document_text(*document, options);
    });
  }
  return 0;
}
