#pragma once
// Text for `data prepare` under one name, which says how it is read.

#include <algorithm>
#include <array>

#include "data/byte_source.h"
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

/// Unpacks all but the first byte, which chooses how much is asked for at a time, as the file `name`, to at
/// most 64 KiB: some 60 bytes of zstd unpack to megabytes, a case of seconds that has nothing new. What text
/// unpacked bytes are is for the readers of text.
inline void unpack(const char* name, Bytes bytes) {
  if (bytes.empty()) return;
  const std::string path = file(name, bytes.subspan(1)).string();
  expect_answer(name, [&] {
    const auto source = open_source(path);
    std::array<char, 4096> piece;
    const size_t asked = std::max<size_t>(1, bytes[0] * piece.size() / 255);
    size_t unpacked = 0;
    for (int reads = 0; reads < 64 && unpacked < (size_t{64} << 10); ++reads) {
      const size_t size = source->read(piece.data(), asked);
      SPANWISE_CHECK(size <= asked && source->bytes_read() < int64_t(bytes.size()), "{}: read {} of {}", name,
                     size, asked);
      if (size == 0) return;
      unpacked += size;
    }
  });
}

}  // namespace spanwise::fuzz
