#include "data/indexed_dataset.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <exception>
#include <filesystem>
#include <span>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/crc32c.h"
#include "core/rng.h"

namespace spanwise {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the arrays of .idx and .bin are used as they lie in memory");

constexpr std::string_view kMagic{"MMIDIDX\0\0", 9};
constexpr int64_t kHeaderBytes = 34;

/// Calls f(T{}) with the C++ type of a token.
template <class F>
auto dispatch(TokenDtype dtype, F&& f) {
  switch (dtype) {
    case TokenDtype::kU8:
      return f(uint8_t{});
    case TokenDtype::kI8:
      return f(int8_t{});
    case TokenDtype::kI16:
      return f(int16_t{});
    case TokenDtype::kI32:
      return f(int32_t{});
    case TokenDtype::kI64:
      return f(int64_t{});
    case TokenDtype::kU16:
      return f(uint16_t{});
  }
  SPANWISE_FAIL("token dtype {} is not one of 1, 2, 3, 4, 5, 8", int(dtype));
}

TokenDtype checked_dtype(uint8_t code, const std::string& path) {
  if (code == 6 || code == 7)
    fail_user("{} declares floating-point elements; a token dataset holds integers", path);
  if (code < 1 || code > 8) fail_user("{} is damaged: dtype code {} is not one of 1 to 8", path, code);
  return TokenDtype(code);
}

constexpr size_t kPieceBytes = size_t{1} << 20;

std::string read_part(const File& file, uint64_t begin, uint64_t bytes) {
  std::string part(bytes, '\0');
  file.read_at(begin, part.data(), bytes);
  return part;
}

/// An array of a file, from its beginning to its end, in pieces.
template <class T>
class ArrayScan {
 public:
  ArrayScan(const File& file, uint64_t begin, int64_t count) : file_(file), at_(begin), left_(count) {}
  T next() {
    if (index_ == piece_.size()) {
      piece_.resize(size_t(std::min<int64_t>(left_, kPieceBytes / sizeof(T))));
      file_.read_at(at_, piece_.data(), piece_.size() * sizeof(T));
      at_ += piece_.size() * sizeof(T);
      left_ -= int64_t(piece_.size());
      index_ = 0;
    }
    return piece_[index_++];
  }

 private:
  const File& file_;
  uint64_t at_;
  int64_t left_;
  std::vector<T> piece_;
  size_t index_ = 0;
};

template <class T>
T load(const File& file, uint64_t at) {
  T value;
  file.read_at(at, &value, sizeof value);
  return value;
}

/// hash_name of a whole file, in pieces.
uint64_t hash_file(const File& file, uint64_t bytes) {
  uint64_t hash = hash_name("");
  for (uint64_t at = 0; at < bytes; at += kPieceBytes)
    for (const unsigned char c : read_part(file, at, std::min<uint64_t>(kPieceBytes, bytes - at)))
      hash = (hash ^ c) * 0x100000001b3ull;
  return hash;
}

uint32_t sum_of(const File& file, uint64_t begin, uint64_t bytes) {
  std::vector<char> piece(size_t(std::min<uint64_t>(bytes, kPieceBytes)));
  uint32_t sum = 0;
  for (uint64_t at = 0; at < bytes;) {
    const size_t part = size_t(std::min<uint64_t>(piece.size(), bytes - at));
    file.read_at(begin + at, piece.data(), part);
    sum = crc32c(piece.data(), part, sum);
    at += part;
  }
  return sum;
}

void check_block(const File& file, const BlockSums& sums, size_t block) {
  const uint64_t begin = block * sums.block_bytes;
  const uint64_t bytes = std::min(sums.block_bytes, sums.bytes - begin);
  if (sum_of(file, begin, bytes) != sums.crc32c[block])
    fail_user(
        "{} is damaged: bytes {} to {} do not have the checksum that was written with them; copy or prepare "
        "the "
        "dataset again",
        file.path().string(), begin, begin + bytes);
}

void check_size(const File& file, int64_t bytes, const BlockSums& sums, const std::string& meta) {
  if (uint64_t(bytes) != sums.bytes)
    fail_user(
        "{} has {} bytes, but {} is of one with {}: they do not belong together; copy or prepare all again",
        file.path().string(), bytes, meta, sums.bytes);
}

}  // namespace

int64_t token_bytes(TokenDtype dtype) {
  return dispatch(dtype, [](auto token) { return int64_t(sizeof token); });
}

IndexedDataset::IndexedDataset(const std::string& prefix)
    : prefix_(prefix),
      bin_(prefix + ".bin", FileMode::kRead),
      idx_(prefix + ".idx", FileMode::kRead),
      bin_bytes_(int64_t(bin_.size())),
      idx_bytes_(int64_t(idx_.size())) {
  check_header();
  check_sequences();
  check_documents();
  check_meta();
}

void IndexedDataset::check_meta() {
  meta_ = read_meta(prefix_);
  if (!meta_) return;
  const std::string path = meta_path(prefix_);
  check_size(bin_, bin_bytes_, meta_->bin, path);
  check_size(idx_, idx_bytes_, meta_->idx, path);
  for (size_t block = 0; block < meta_->idx.crc32c.size(); ++block) check_block(idx_, meta_->idx, block);
  verified_ = std::make_unique<std::atomic<bool>[]>(meta_->bin.crc32c.size());
}

void IndexedDataset::verify_blocks(uint64_t begin, uint64_t count) const {
  if (!meta_ || count == 0) return;
  const uint64_t last = (begin + count - 1) / meta_->bin.block_bytes;
  for (uint64_t block = begin / meta_->bin.block_bytes; block <= last; ++block) {
    // Two threads may both find it unread and compare it twice.
    if (verified_[block].load(std::memory_order_relaxed)) continue;
    check_block(bin_, meta_->bin, block);
    verified_[block].store(true, std::memory_order_relaxed);
  }
}

void IndexedDataset::verify(int num_threads, const std::function<void(int64_t)>& progress) const {
  SPANWISE_CHECK(meta_, "{} has no table of checksums", prefix_);
  const size_t blocks = meta_->bin.crc32c.size();
  std::vector<std::exception_ptr> errors(blocks);
  std::atomic<size_t> next = 0;
  std::atomic<int64_t> done = 0;
  auto work = [&](bool speaks) {
    for (size_t block; (block = next++) < blocks;) {
      try {
        check_block(bin_, meta_->bin, block);
      } catch (...) {
        errors[block] = std::current_exception();
      }
      done += int64_t(std::min(meta_->bin.block_bytes, meta_->bin.bytes - block * meta_->bin.block_bytes));
      if (speaks && progress) progress(done);
    }
  };
  {
    std::vector<std::jthread> threads;
    for (int thread = 1; thread < num_threads; ++thread) threads.emplace_back(work, false);
    work(true);
  }
  for (const auto& error : errors)
    if (error) std::rethrow_exception(error);
}

void IndexedDataset::check_header() {
  const std::string path = idx_.path().string();
  const int64_t size = idx_bytes_;
  const std::string header = read_part(idx_, 0, std::min(size, kHeaderBytes));
  if (!header.starts_with(kMagic))
    fail_user(
        "{} is not an indexed dataset: it does not begin with MMIDIDX; prepare the text with `spanwise data "
        "prepare`",
        path);
  if (size < kHeaderBytes)
    fail_user("{} is truncated: {} bytes, the header alone has {}; prepare it again", path, size,
              kHeaderBytes);
  const auto version = load<uint64_t>(idx_, 9);
  if (version != 1) fail_user("{} has version {}; only version 1 is supported", path, version);
  dtype_ = checked_dtype(load<uint8_t>(idx_, 17), path);

  const auto num_sequences = load<uint64_t>(idx_, 18), num_boundaries = load<uint64_t>(idx_, 26);
  // The counts may be garbage: bound them by the file's size before they are multiplied.
  const uint64_t limit = size;
  const bool plausible = num_sequences <= limit && num_boundaries <= limit;
  const int64_t needed =
      plausible ? kHeaderBytes + int64_t(num_sequences) * 12 + int64_t(num_boundaries) * 8 : 0;
  const bool has_modes = plausible && size == needed + int64_t(num_sequences);
  if (!plausible || (size != needed && !has_modes))
    fail_user(
        "{} has {} bytes, which does not fit the {} sequences and {} document boundaries it declares; "
        "prepare it again",
        path, size, num_sequences, num_boundaries);
  if (num_boundaries == 0) fail_user("{} is damaged: its document array is empty; prepare it again", path);
  num_sequences_ = num_sequences;
  num_documents_ = num_boundaries - 1;
  sizes_ = kHeaderBytes;
  offsets_ = sizes_ + num_sequences_ * 4;
  documents_ = offsets_ + num_sequences_ * 8;
}

void IndexedDataset::check_sequences() const {
  const std::string path = idx_.path().string(), bin_path = bin_.path().string();
  const int64_t width = token_bytes(dtype_);
  ArrayScan<int32_t> sizes(idx_, sizes_, num_sequences_);
  ArrayScan<int64_t> offsets(idx_, offsets_, num_sequences_);
  int64_t expected = 0;
  for (int64_t i = 0; i < num_sequences_; ++i) {
    const int32_t size = sizes.next();
    const int64_t offset = offsets.next();
    if (size < 0) fail_user("{} is damaged: sequence {} has {} tokens; prepare it again", path, i, size);
    if (offset != expected)
      fail_user(
          "{} is damaged: sequence {} starts at byte {} of {}, but the ones before it end at byte {}; "
          "prepare it again",
          path, i, offset, bin_path, expected);
    expected += int64_t(size) * width;
    if (expected > bin_bytes_)
      fail_user(
          "{} is truncated: it has {} bytes, but {} places the end of sequence {} at byte {}; copy or "
          "prepare both again",
          bin_path, bin_bytes_, path, i, expected);
  }
  if (expected != bin_bytes_)
    fail_user(
        "{} has {} bytes, but {} describes {}: the two files do not belong together; copy or prepare both "
        "again",
        bin_path, bin_bytes_, path, expected);
}

void IndexedDataset::check_documents() const {
  const std::string path = idx_.path().string();
  ArrayScan<int64_t> documents(idx_, documents_, num_documents_ + 1);
  int64_t last = documents.next();
  if (last != 0)
    fail_user("{} is damaged: the document array begins with {}, not 0; prepare it again", path, last);
  for (int64_t i = 0; i < num_documents_; ++i) {
    const int64_t next = documents.next();
    if (next < last)
      fail_user(
          "{} is damaged: document {} starts at sequence {}, before document {} at {}; prepare it again",
          path, i + 1, next, i, last);
    last = next;
  }
  if (last != num_sequences_)
    fail_user(
        "{} is damaged: the document array ends with {}, not with the number of sequences, {}; prepare it "
        "again",
        path, last, num_sequences_);
}

std::string IndexedDataset::name() const {
  return std::filesystem::path(prefix_).filename().string();
}

int64_t IndexedDataset::sequence_offset_bytes(int64_t i) const {
  return load<int64_t>(idx_, offsets_ + i * 8);
}
int64_t IndexedDataset::document_sequence(int64_t i) const {
  return load<int64_t>(idx_, documents_ + i * 8);
}

int64_t IndexedDataset::num_tokens() const {
  return bin_bytes_ / token_bytes(dtype_);
}

int64_t IndexedDataset::document_begin(int64_t i) const {
  SPANWISE_CHECK(i >= 0 && i <= num_documents_, "document {} of {} in {}", i, num_documents_, prefix_);
  const int64_t sequence = document_sequence(i);
  // Trailing empty documents start, like the end, behind the last sequence.
  return sequence == num_sequences_ ? num_tokens() : sequence_offset_bytes(sequence) / token_bytes(dtype_);
}

int64_t IndexedDataset::first_document_at(int64_t position) const {
  int64_t low = 0, high = num_documents_;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (document_begin(middle) < position) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

void IndexedDataset::read(int64_t position, int64_t count, int32_t* out) const {
  SPANWISE_CHECK(position >= 0 && count >= 0 && position <= num_tokens() - count,
                 "tokens [{}, {}) of {} with {} tokens", position, position + count, prefix_, num_tokens());
  dispatch(dtype_, [&](auto token) {
    using Token = decltype(token);
    verify_blocks(uint64_t(position) * sizeof(Token), uint64_t(count) * sizeof(Token));
    std::vector<Token> values(static_cast<size_t>(count));
    bin_.read_at(uint64_t(position) * sizeof(Token), values.data(), values.size() * sizeof(Token));
    for (int64_t i = 0; i < count; ++i) {
      if (!std::in_range<int32_t>(values[i]))
        fail_user("{}: token {} at position {} is beyond every vocabulary; prepare the dataset again",
                  bin_.path().string(), values[i], position + i);
      out[i] = int32_t(values[i]);
    }
  });
}

void IndexedDataset::check_tokenizer(const Tokenizer& tokenizer) const {
  if (!meta_ || !meta_->tokenizer) return;
  const TokenizerIdentity &then = *meta_->tokenizer, now = identity_of(tokenizer);
  if (then.crc32c != now.crc32c || then.vocab_size != now.vocab_size)
    fail_user(
        "{} was prepared with another tokenizer, {} (checksum {:08x}), than {} ({:08x}); name that one, or "
        "prepare "
        "the dataset again",
        prefix_, then.name, then.crc32c, tokenizer.name(), now.crc32c);
}

void IndexedDataset::check_vocabulary(const int32_t* tokens, int64_t count, int64_t position,
                                      int64_t vocab_size) const {
  for (int64_t i = 0; i < count; ++i)
    if (tokens[i] < 0 || tokens[i] >= vocab_size)
      fail_user(
          "{}: token {} at position {} is outside the vocabulary of {} tokens; use the tokenizer the dataset "
          "was "
          "prepared with, or prepare it again",
          bin_.path().string(), tokens[i], position + i, vocab_size);
}

void IndexedDataset::check_vocabulary(int64_t vocab_size, int num_threads) const {
  SPANWISE_CHECK(num_threads > 0, "num_threads={}", num_threads);
  constexpr int64_t kBlock = 1 << 16;
  std::vector<std::exception_ptr> errors(num_threads);
  auto scan = [&](int thread) {
    try {
      const int64_t begin = num_tokens() / num_threads * thread;
      const int64_t end = thread + 1 == num_threads ? num_tokens() : begin + num_tokens() / num_threads;
      std::vector<int32_t> block(std::min(kBlock, end - begin));
      for (int64_t at = begin; at < end; at += kBlock) {
        const int64_t count = std::min(kBlock, end - at);
        read(at, count, block.data());
        check_vocabulary(block.data(), count, at, vocab_size);
      }
    } catch (...) {
      errors[thread] = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> threads;
    for (int thread = 1; thread < num_threads; ++thread) threads.emplace_back(scan, thread);
    scan(0);
  }
  // In order of position, so that the message does not depend on the threads' timing.
  for (const auto& error : errors)
    if (error) std::rethrow_exception(error);
}

uint64_t IndexedDataset::fingerprint() const {
  const uint64_t edge = std::min<uint64_t>(64 << 10, bin_bytes_);
  verify_blocks(0, edge);
  verify_blocks(bin_bytes_ - edge, edge);
  const uint64_t parts[] = {hash_file(idx_, idx_bytes_), hash_name(read_part(bin_, 0, edge)),
                            hash_name(read_part(bin_, bin_bytes_ - edge, edge))};
  return hash_name({reinterpret_cast<const char*>(parts), sizeof parts});
}

}  // namespace spanwise
