// A SentencePiece model, and text through it and back.

#include "data/tokenizer.h"
#include "tests/fuzz/fuzz_file.h"

using namespace spanwise;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string path = fuzz::file("tokenizer.model", {data, size}).string();
  fuzz::expect_answer("tokenizer.model", [&] {
    const std::unique_ptr<Tokenizer> tokenizer = load_sentencepiece(path);
    const std::vector<int32_t> ids = tokenizer->encode("a “b” c");
    tokenizer->decode(ids);
  });
  return 0;
}
