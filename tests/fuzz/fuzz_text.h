#pragma once
// Text for `data prepare` under one name, which says how it is read.

#include "data/text_files.h"
#include "data/utf8.h"
#include "tests/fuzz/fuzz_file.h"

namespace spanwise::fuzz {

/// Reads all but the first byte, which chooses whether invalid UTF-8 is refused or replaced, as the file
/// `name`.
inline void read_documents(const char* name, Bytes bytes) {
  if (bytes.empty()) return;
  const InvalidUtf8 invalid = bytes[0] & 1 ? InvalidUtf8::kRefuse : InvalidUtf8::kReplace;
  const std::string path = file(name, bytes.subspan(1)).string();
  expect_answer(name, [&] {
    const TextFileOptions options{.inputs = {path}, .document_separator = "-", .invalid_utf8 = invalid};
    DocumentReader reader(options);
    while (const auto document = reader.next()) {
      const std::string text = document_text(*document, options);
      SPANWISE_CHECK(valid_utf8(text) == text.size(), "{} gave what is not UTF-8", name);
    }
  });
}

}  // namespace spanwise::fuzz
