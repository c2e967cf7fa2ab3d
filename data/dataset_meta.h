#pragma once
// PREFIX.meta.json, beside an indexed dataset: checksums of its two files in blocks, so that a changed bit is
// found when its block is first read, and what prepared it. A dataset without it can be used, unverified.
// The file ends with a checksum of itself (docs/formats.md).

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"

namespace spanwise {

/// CRC-32C of each block of a file; the last block may be short.
struct BlockSums {
  uint64_t bytes = 0, block_bytes = uint64_t{64} << 20;
  std::vector<uint32_t> crc32c;
  bool operator==(const BlockSums&) const = default;

  /// Goes on with `size` bytes at the end.
  void append(const void* data, size_t size);
};

/// A tokenizer as others can compare it.
struct TokenizerIdentity {
  std::string name;  ///< "bytes", or the model's file without its directory
  int64_t vocab_size = 0;
  uint32_t crc32c = 0;  ///< Tokenizer::checksum
  int32_t end_of_document = -1;
  std::optional<int32_t> begin_of_document = {};  ///< where every document begins with it
  bool operator==(const TokenizerIdentity&) const = default;
};
TokenizerIdentity identity_of(const Tokenizer& tokenizer);

struct DatasetMeta {
  BlockSums bin, idx;
  std::optional<TokenizerIdentity> tokenizer = {};
  bool operator==(const DatasetMeta&) const = default;

  /// One number for the contents of both files.
  uint32_t contents() const;
};

/// PREFIX.meta.json.
std::string meta_path(const std::string& prefix);
/// The text of the file.
std::string print_meta(const DatasetMeta& meta);
/// UserError naming `path` and the fault unless every byte is as print_meta wrote it.
DatasetMeta parse_meta(std::string_view text, const std::string& path);
/// Nothing if there is no such file.
std::optional<DatasetMeta> read_meta(const std::string& prefix);

}  // namespace spanwise
