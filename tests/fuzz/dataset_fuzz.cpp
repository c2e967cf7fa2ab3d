// An indexed dataset: the first twelve bits are the length of .bin, which is filled with the rest over
// and over.

#include <algorithm>

#include "data/indexed_dataset.h"
#include "data/loader.h"
#include "data/statistics.h"
#include "tests/fuzz/fuzz_file.h"

using namespace spanwise;

namespace {

void use(const IndexedDataset& dataset) {
  std::vector<int32_t> tokens(size_t(std::min<int64_t>(dataset.num_tokens(), 64)));
  dataset.read(0, int64_t(tokens.size()), tokens.data());
  for (int64_t i = 0; i < std::min<int64_t>(dataset.num_documents(), 64); ++i) {
    SPANWISE_CHECK(dataset.first_document_at(dataset.document_begin(i)) <= i, "document {} is not found", i);
  }
  dataset.fingerprint();
  dataset.check_vocabulary(int64_t{1} << 31);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const fuzz::Bytes index(data + 2, size - 2);
  std::vector<uint8_t> tokens(size_t(data[0]) | size_t(data[1] & 15) << 8);
  for (size_t i = 0; !index.empty() && i < tokens.size(); i += index.size())
    std::copy_n(index.begin(), std::min(index.size(), tokens.size() - i), tokens.begin() + int64_t(i));
  fuzz::file("set.idx", index);
  fuzz::file("set.bin", tokens);
  const std::string prefix = (fuzz::directory() / "set").string();
  fuzz::expect_answer("set", [&] { use(IndexedDataset(prefix)); });
  fuzz::expect_answer("set", [&] {
    const SequentialLoader loader(prefix, 16, 65536);
    if (loader.num_samples() > 0) loader.load(loader.num_samples() - 1, 1);
  });
  return 0;
}
