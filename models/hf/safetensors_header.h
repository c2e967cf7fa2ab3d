#pragma once
// The JSON header of a safetensors file, apart from the file: formatting, parsing and every check of the
// layout.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "models/hf/safetensors.h"

namespace spanwise {

inline constexpr uint64_t kSafetensorsMaxHeaderBytes = 100'000'000;
inline constexpr std::string_view kSafetensorsMetadataKey = "__metadata__";

/// Throws the UserError "PATH is not a readable safetensors file: PROBLEM; copy or download it again".
[[noreturn]] void fail_safetensors(const std::filesystem::path& path, const std::string& problem);

/// Bytes of a tensor; empty if the dtype is unknown, a size is negative or the product overflows.
std::optional<uint64_t> safetensors_tensor_bytes(std::string_view dtype, const std::vector<int64_t>& shape);

/// The padded JSON of tensors whose offsets and bytes are set.
std::string format_safetensors_header(const std::vector<SafetensorsInfo>& tensors,
                                      const SafetensorsMetadata& metadata);

/// The tensors in file order, checked to fill `data_bytes` bytes with no hole, overlap or rest.
std::vector<SafetensorsInfo> parse_safetensors_header(const std::filesystem::path& path,
                                                      const std::string& header, uint64_t data_bytes,
                                                      SafetensorsMetadata& metadata);

}  // namespace spanwise
