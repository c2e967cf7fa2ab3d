#include "models/hf/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "core/check.h"
#include "core/crc32c.h"
#include "core/json_quote.h"
#include "models/hf/safetensors_header.h"

namespace spanwise {

static_assert(std::endian::native == std::endian::little, "tensors are written as they lie in memory");

namespace {

constexpr std::pair<std::string_view, uint64_t> kDtypes[] = {
    {"F64", 8},     {"I64", 8},         {"U64", 8},         {"C64", 8},    {"F32", 4},
    {"I32", 4},     {"U32", 4},         {"F16", 2},         {"BF16", 2},   {"I16", 2},
    {"U16", 2},     {"I8", 1},          {"U8", 1},          {"BOOL", 1},   {"F8_E4M3", 1},
    {"F8_E5M2", 1}, {"F8_E4M3FNUZ", 1}, {"F8_E5M2FNUZ", 1}, {"F8_E8M0", 1}};

}  // namespace

uint64_t safetensors_dtype_bytes(std::string_view dtype) {
  for (const auto& [name, bytes] : kDtypes) {
    if (name == dtype) return bytes;
  }
  return 0;
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, std::vector<SafetensorsInfo> tensors,
                                     const SafetensorsMetadata& metadata)
    : file_(path, FileMode::kCreate), tensors_(std::move(tensors)), written_(tensors_.size()) {
  std::sort(tensors_.begin(), tensors_.end(), [](const auto& a, const auto& b) {
    const uint64_t a_bytes = safetensors_dtype_bytes(a.dtype), b_bytes = safetensors_dtype_bytes(b.dtype);
    return a_bytes != b_bytes ? a_bytes > b_bytes : a.name < b.name;
  });
  uint64_t offset = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    SafetensorsInfo& tensor = tensors_[i];
    SPANWISE_CHECK(tensor.name != kSafetensorsMetadataKey && index_.emplace(tensor.name, i).second,
                   "tensor name '{}' is reserved or used twice in {}", tensor.name, path.string());
    const std::optional<uint64_t> bytes = safetensors_tensor_bytes(tensor.dtype, tensor.shape);
    SPANWISE_CHECK(bytes.has_value(), "tensor '{}': dtype {} or its shape is not supported by safetensors",
                   tensor.name, tensor.dtype);
    tensor.offset = offset;
    tensor.bytes = *bytes;
    offset += *bytes;
  }
  const std::string header = format_safetensors_header(tensors_, metadata);
  SPANWISE_CHECK(header.size() <= kSafetensorsMaxHeaderBytes,
                 "{}: header of {} bytes is above the format's {}", path.string(), header.size(),
                 kSafetensorsMaxHeaderBytes);
  const uint64_t header_bytes = header.size();
  file_.write_all(&header_bytes, sizeof(header_bytes));
  file_.write_all(header);
  data_begin_ = sizeof(header_bytes) + header_bytes;
  header_crc32c_ = crc32c(header.data(), header.size(), crc32c(&header_bytes, sizeof(header_bytes)));
}

void SafetensorsWriter::append(std::string_view name, const void* data, size_t bytes) {
  const auto found = index_.find(std::string(name));
  SPANWISE_CHECK(found != index_.end(), "tensor '{}' is not in the header of {}", name,
                 file_.path().string());
  const SafetensorsInfo& tensor = tensors_[found->second];
  Written& written = written_[found->second];
  SPANWISE_CHECK(bytes <= tensor.bytes - written.bytes, "tensor '{}' has {} bytes, got {} more after {}",
                 name, tensor.bytes, bytes, written.bytes);
  file_.write_at(data_begin_ + tensor.offset + written.bytes, data, bytes);
  written.bytes += bytes;
  written.crc32c = crc32c(data, bytes, written.crc32c);
}

FileDigest SafetensorsWriter::finish() {
  FileDigest digest{.bytes = data_begin_, .crc32c = header_crc32c_};
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const Written& written = written_[i];
    SPANWISE_CHECK(written.bytes == tensors_[i].bytes, "tensor '{}' of {} has {} of its {} bytes",
                   tensors_[i].name, file_.path().string(), written.bytes, tensors_[i].bytes);
    digest.bytes += written.bytes;
    digest.crc32c = crc32c_combine(digest.crc32c, written.crc32c, written.bytes);
  }
  file_.sync();
  return digest;
}

void write_safetensors(const std::filesystem::path& path, const std::vector<SafetensorsView>& tensors,
                       const SafetensorsMetadata& metadata) {
  std::vector<SafetensorsInfo> infos;
  std::unordered_map<std::string_view, const SafetensorsView*> views;
  for (const SafetensorsView& view : tensors) {
    infos.push_back({.name = view.name, .dtype = view.dtype, .shape = view.shape});
    views[view.name] = &view;
  }
  SafetensorsWriter writer(path, std::move(infos), metadata);
  for (const SafetensorsInfo& info : writer.tensors()) {
    const SafetensorsView& view = *views.at(info.name);
    writer.append(view.name, view.data, view.bytes);
  }
  writer.finish();
}

SafetensorsReader::SafetensorsReader(const std::filesystem::path& path)
    : SafetensorsReader(File(path, FileMode::kRead)) {}

SafetensorsReader::SafetensorsReader(File file) : file_(std::move(file)) {
  const std::filesystem::path& path = file_.path();
  const uint64_t file_bytes = file_.size();
  uint64_t header_bytes = 0;
  if (file_bytes < sizeof(header_bytes)) {
    fail_safetensors(path, fmt::format("it has {} bytes, too few for a header length", file_bytes));
  }
  file_.read_at(0, &header_bytes, sizeof(header_bytes));
  if (header_bytes > kSafetensorsMaxHeaderBytes || header_bytes > file_bytes - sizeof(header_bytes)) {
    fail_safetensors(path, fmt::format("its header claims {} bytes (the file has {}, the format allows {})",
                                       header_bytes, file_bytes, kSafetensorsMaxHeaderBytes));
  }
  std::string header(header_bytes, '\0');
  file_.read_at(sizeof(header_bytes), header.data(), header.size());
  header_.bytes = sizeof(header_bytes) + header_bytes;
  header_.crc32c = crc32c(header.data(), header.size(), crc32c(&header_bytes, sizeof(header_bytes)));
  tensors_ = parse_safetensors_header(path, header, file_bytes - header_.bytes, metadata_);
  for (size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
}

const SafetensorsInfo& SafetensorsReader::info(std::string_view name) const {
  const auto found = index_.find(std::string(name));
  if (found == index_.end()) {
    fail_user("{} has no tensor '{}' ({} tensors, the first is '{}'); it belongs to another model",
              file_.path().string(), name, tensors_.size(), tensors_.empty() ? "" : tensors_.front().name);
  }
  return tensors_[found->second];
}

void SafetensorsReader::read(std::string_view name, void* data, size_t bytes) const {
  SPANWISE_CHECK(bytes == info(name).bytes, "tensor '{}' has {} bytes, asked for {}", name, info(name).bytes,
                 bytes);
  read_part(name, 0, data, bytes);
}

void SafetensorsReader::read_part(std::string_view name, uint64_t offset, void* data, size_t bytes) const {
  const SafetensorsInfo& tensor = info(name);
  SPANWISE_CHECK(offset <= tensor.bytes && bytes <= tensor.bytes - offset,
                 "tensor '{}' has {} bytes, asked for {} from {}", name, tensor.bytes, bytes, offset);
  file_.read_at(header_.bytes + tensor.offset + offset, data, bytes);
}

}  // namespace spanwise
