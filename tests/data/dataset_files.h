#pragma once
// Datasets and files for the tests of data/.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "data/indexed_writer.h"

namespace spanwise {

using Documents = std::vector<std::vector<int32_t>>;

inline std::string write_dataset(const std::filesystem::path& prefix, const Documents& documents,
                                 int64_t vocab_size = 1000, Overwrite overwrite = Overwrite::kRefuse) {
  IndexedDatasetWriter writer(prefix.string(), vocab_size, overwrite);
  for (const auto& document : documents) writer.add_document(document);
  writer.finish();
  return prefix.string();
}

/// The dataset as one prepared before there were tables of checksums.
inline void remove_meta(const std::string& prefix) {
  EXPECT_TRUE(std::filesystem::remove(prefix + ".meta.json"));
}

inline std::string file_bytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::string write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
  return path.string();
}

inline int num_files(const std::filesystem::path& directory) {
  return int(
      std::distance(std::filesystem::directory_iterator(directory), std::filesystem::directory_iterator()));
}

}  // namespace spanwise
