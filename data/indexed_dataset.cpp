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
#include "core/rng.h"

namespace spanwise {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the arrays of .idx and .bin are used as they lie in memory");

constexpr std::string_view kMagic{"MMIDIDX\0\0", 9};
constexpr int64_t kHeaderBytes = 34;

template <class T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

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

std::string_view view(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

int64_t token_bytes(TokenDtype dtype) {
  return dispatch(dtype, [](auto token) { return int64_t(sizeof token); });
}

IndexedDataset::IndexedDataset(const std::string& prefix)
    : prefix_(prefix), bin_(prefix + ".bin"), idx_(prefix + ".idx") {
  check_header();
  check_sequences();
  check_documents();
}

void IndexedDataset::check_header() {
  const std::string& path = idx_.path();
  const auto bytes = idx_.bytes();
  const int64_t size = bytes.size();
  if (!view(bytes).starts_with(kMagic))
    fail_user(
        "{} is not an indexed dataset: it does not begin with MMIDIDX; prepare the text with `spanwise data "
        "prepare`",
        path);
  if (size < kHeaderBytes)
    fail_user("{} is truncated: {} bytes, the header alone has {}; prepare it again", path, size,
              kHeaderBytes);
  const auto version = load<uint64_t>(&bytes[9]);
  if (version != 1) fail_user("{} has version {}; only version 1 is supported", path, version);
  dtype_ = checked_dtype(load<uint8_t>(&bytes[17]), path);

  const auto num_sequences = load<uint64_t>(&bytes[18]), num_boundaries = load<uint64_t>(&bytes[26]);
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
  sizes_ = bytes.data() + kHeaderBytes;
  offsets_ = sizes_ + num_sequences_ * 4;
  documents_ = offsets_ + num_sequences_ * 8;
}

void IndexedDataset::check_sequences() const {
  const std::string& path = idx_.path();
  const int64_t width = token_bytes(dtype_), bin_bytes = bin_.bytes().size();
  int64_t expected = 0;
  for (int64_t i = 0; i < num_sequences_; ++i) {
    const int32_t size = sequence_size(i);
    const int64_t offset = sequence_offset_bytes(i);
    if (size < 0) fail_user("{} is damaged: sequence {} has {} tokens; prepare it again", path, i, size);
    if (offset != expected)
      fail_user(
          "{} is damaged: sequence {} starts at byte {} of {}, but the ones before it end at byte {}; "
          "prepare it again",
          path, i, offset, bin_.path(), expected);
    expected += int64_t(size) * width;
    if (expected > bin_bytes)
      fail_user(
          "{} is truncated: it has {} bytes, but {} places the end of sequence {} at byte {}; copy or "
          "prepare both again",
          bin_.path(), bin_bytes, path, i, expected);
  }
  if (expected != bin_bytes)
    fail_user(
        "{} has {} bytes, but {} describes {}: the two files do not belong together; copy or prepare both "
        "again",
        bin_.path(), bin_bytes, path, expected);
}

void IndexedDataset::check_documents() const {
  const std::string& path = idx_.path();
  if (const int64_t first = document_sequence(0); first != 0)
    fail_user("{} is damaged: the document array begins with {}, not 0; prepare it again", path, first);
  for (int64_t i = 0; i < num_documents_; ++i)
    if (document_sequence(i + 1) < document_sequence(i))
      fail_user(
          "{} is damaged: document {} starts at sequence {}, before document {} at {}; prepare it again",
          path, i + 1, document_sequence(i + 1), i, document_sequence(i));
  if (const int64_t last = document_sequence(num_documents_); last != num_sequences_)
    fail_user(
        "{} is damaged: the document array ends with {}, not with the number of sequences, {}; prepare it "
        "again",
        path, last, num_sequences_);
}

std::string IndexedDataset::name() const {
  return std::filesystem::path(prefix_).filename().string();
}

int32_t IndexedDataset::sequence_size(int64_t i) const {
  return load<int32_t>(sizes_ + i * 4);
}
int64_t IndexedDataset::sequence_offset_bytes(int64_t i) const {
  return load<int64_t>(offsets_ + i * 8);
}
int64_t IndexedDataset::document_sequence(int64_t i) const {
  return load<int64_t>(documents_ + i * 8);
}

int64_t IndexedDataset::num_tokens() const {
  return int64_t(bin_.bytes().size()) / token_bytes(dtype_);
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
    const std::byte* source = bin_.bytes().data() + position * int64_t(sizeof(Token));
    for (int64_t i = 0; i < count; ++i) {
      const Token value = load<Token>(source + i * int64_t(sizeof(Token)));
      if (!std::in_range<int32_t>(value))
        fail_user("{}: token {} at position {} is beyond every vocabulary; prepare the dataset again",
                  bin_.path(), value, position + i);
      out[i] = int32_t(value);
    }
  });
}

void IndexedDataset::check_vocabulary(const int32_t* tokens, int64_t count, int64_t position,
                                      int64_t vocab_size) const {
  for (int64_t i = 0; i < count; ++i)
    if (tokens[i] < 0 || tokens[i] >= vocab_size)
      fail_user(
          "{}: token {} at position {} is outside the vocabulary of {} tokens; use the tokenizer the dataset "
          "was "
          "prepared with, or prepare it again",
          bin_.path(), tokens[i], position + i, vocab_size);
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
  constexpr size_t kEdgeBytes = 64 << 10;
  const auto bin = view(bin_.bytes());
  const uint64_t parts[] = {hash_name(view(idx_.bytes())), hash_name(bin.substr(0, kEdgeBytes)),
                            hash_name(bin.substr(bin.size() - std::min(bin.size(), kEdgeBytes)))};
  return hash_name(view(std::as_bytes(std::span(parts))));
}

}  // namespace spanwise
