#include "data/indexed_writer.h"

#include <unistd.h>

#include <filesystem>
#include <utility>

#include "core/check.h"

namespace spanwise {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kFirstWideVocabulary = 65500;

}  // namespace

IndexedDatasetWriter::IndexedDatasetWriter(const std::string& prefix, int64_t vocab_size, Overwrite overwrite)
    : prefix_(prefix),
      // The process id keeps two preparations of one prefix from mixing their tokens.
      partial_bin_(fmt::format("{}.bin.partial-{}", prefix, getpid())),
      partial_idx_(fmt::format("{}.idx.partial-{}", prefix, getpid())),
      vocab_size_(vocab_size),
      dtype_(vocab_size < kFirstWideVocabulary ? TokenDtype::kU16 : TokenDtype::kI32) {
  if (overwrite == Overwrite::kRefuse)
    for (const char* extension : {".bin", ".idx"})
      if (fs::exists(prefix + extension))
        fail_user("{}{} exists already; choose another output or allow overwriting", prefix, extension);
  if (const fs::path directory = fs::path(prefix).parent_path(); !directory.empty())
    make_directories(directory);
  bin_.emplace(partial_bin_, FileMode::kCreate);
}

IndexedDatasetWriter::~IndexedDatasetWriter() {
  bin_.reset();
  std::error_code ignored;
  fs::remove(partial_bin_, ignored);
  fs::remove(partial_idx_, ignored);
}

void IndexedDatasetWriter::add_document(std::span<const int32_t> tokens) {
  SPANWISE_CHECK(bin_, "{}: add_document after seal or finish", prefix_);
  SPANWISE_CHECK(!tokens.empty(), "{}: document {} is empty", prefix_, num_documents());
  for (const int32_t token : tokens)
    SPANWISE_CHECK(token >= 0 && token < vocab_size_, "{}: token {} with a vocabulary of {}", prefix_, token,
                   vocab_size_);
  if (!std::in_range<int32_t>(tokens.size()))
    fail_user("document {} of {} has {} tokens; a document holds fewer than 2^31, so split it",
              num_documents(), prefix_, tokens.size());
  if (dtype_ == TokenDtype::kU16) {
    narrow_.assign(tokens.begin(), tokens.end());
    bin_->write_all(narrow_.data(), narrow_.size() * sizeof(uint16_t));
  } else {
    bin_->write_all(tokens.data(), tokens.size_bytes());
  }
  document_sizes_.push_back(int32_t(tokens.size()));
  num_tokens_ += int64_t(tokens.size());
}

void IndexedDatasetWriter::write_index() const {
  const uint64_t num_sequences = document_sizes_.size();
  std::string index("MMIDIDX\0\0", 9);
  auto append = [&](const void* data, size_t num_bytes) {
    index.append(static_cast<const char*>(data), num_bytes);
  };
  auto put = [&](const auto& value) { append(&value, sizeof value); };
  put(uint64_t{1});
  put(dtype_);
  put(num_sequences);
  put(num_sequences + 1);
  append(document_sizes_.data(), num_sequences * sizeof(int32_t));
  int64_t offset_bytes = 0;
  for (const int32_t size : document_sizes_) {
    put(offset_bytes);
    offset_bytes += size * token_bytes(dtype_);
  }
  for (uint64_t document = 0; document <= num_sequences; ++document) put(int64_t(document));
  write_file(partial_idx_, index);
}

void IndexedDatasetWriter::seal() {
  SPANWISE_CHECK(bin_, "{}: sealed twice", prefix_);
  bin_->sync();
  bin_.reset();
  write_index();
}

void IndexedDatasetWriter::finish() {
  SPANWISE_CHECK(!finished_, "{}: finished twice", prefix_);
  if (bin_) seal();
  finished_ = true;
  // The old index goes first: a crash in between leaves a dataset without index, never a wrong pair.
  std::error_code error;
  fs::remove(prefix_ + ".idx", error);
  rename_path(partial_bin_, prefix_ + ".bin");
  rename_path(partial_idx_, prefix_ + ".idx");
}

}  // namespace spanwise
