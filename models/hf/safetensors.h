#pragma once
// safetensors files: u64 little-endian header length n, n bytes of JSON
//   {"__metadata__":{string:string}, "name":{"dtype":"F32","shape":[2,3],"data_offsets":[begin,end]}, ...}
// padded with spaces so that 8 + n is a multiple of 8, then the row-major little-endian bytes of the tensors
// with no gaps. Tensors stand in order of element size, largest first, then by name, so every element is
// aligned and equal content gives equal bytes.
//
// A file that is damaged or not what it claims to be is a UserError naming the file, the tensor and the way
// out; unknown keys inside a tensor's entry are ignored, as the format asks.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/file_io.h"

namespace spanwise {

/// One tensor as the header describes it.
struct SafetensorsInfo {
  std::string name;
  std::string dtype;  ///< As in the file: F64 F32 F16 BF16 I64 I32 I16 I8 U64 U32 U16 U8 BOOL C64 F8_*.
  std::vector<int64_t> shape;
  uint64_t offset = 0;  ///< Of the first byte, from the end of the header. Filled by writer and reader.
  uint64_t bytes = 0;   ///< Filled by writer and reader.
};

/// One tensor to write, in memory.
struct SafetensorsView {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  const void* data = nullptr;
  size_t bytes = 0;
};

using SafetensorsMetadata = std::map<std::string, std::string>;

/// Bytes of one element; 0 if `dtype` is not one of the above.
uint64_t safetensors_dtype_bytes(std::string_view dtype);

/// Writes a file tensor by tensor, or piece by piece, without ever holding all of it.
class SafetensorsWriter {
 public:
  /// Writes the header. `tensors` need name, dtype and shape; names are unique, UTF-8.
  SafetensorsWriter(const std::filesystem::path& path, std::vector<SafetensorsInfo> tensors,
                    const SafetensorsMetadata& metadata = {});
  /// In file order: appending in this order writes the disk sequentially.
  const std::vector<SafetensorsInfo>& tensors() const { return tensors_; }
  /// The next `bytes` bytes of tensor `name`. Tensors may be interleaved.
  void append(std::string_view name, const void* data, size_t bytes);
  /// Checks that every tensor is complete and syncs the file. Returns what it holds, summed as it was
  /// written.
  FileDigest finish();

 private:
  File file_;
  std::vector<SafetensorsInfo> tensors_;
  std::unordered_map<std::string, size_t> index_;
  struct Written {
    uint64_t bytes = 0;
    uint32_t crc32c = 0;
  };
  std::vector<Written> written_;  ///< So far, by tensor.
  uint64_t data_begin_ = 0;
  uint32_t header_crc32c_ = 0;
};

/// Writes all of `tensors` and syncs the file.
void write_safetensors(const std::filesystem::path& path, const std::vector<SafetensorsView>& tensors,
                       const SafetensorsMetadata& metadata = {});

/// Reads the header and checks all of it on construction; tensors are read when asked for.
class SafetensorsReader {
 public:
  explicit SafetensorsReader(const std::filesystem::path& path);
  explicit SafetensorsReader(File file);
  /// In file order.
  const std::vector<SafetensorsInfo>& tensors() const { return tensors_; }
  const SafetensorsMetadata& metadata() const { return metadata_; }
  /// Of everything before the tensors; these follow each other to the end of the file.
  FileDigest header() const { return header_; }
  bool contains(std::string_view name) const { return index_.count(std::string(name)) > 0; }
  /// UserError if the file has no such tensor.
  const SafetensorsInfo& info(std::string_view name) const;
  /// The whole tensor; `bytes` must be its size.
  void read(std::string_view name, void* data, size_t bytes) const;
  /// `bytes` bytes from `offset` (bytes) of the tensor.
  void read_part(std::string_view name, uint64_t offset, void* data, size_t bytes) const;

 private:
  File file_;
  std::vector<SafetensorsInfo> tensors_;
  std::unordered_map<std::string, size_t> index_;
  SafetensorsMetadata metadata_;
  FileDigest header_;
};

}  // namespace spanwise
