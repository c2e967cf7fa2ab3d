#include "launcher/host_memory.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>
#include <string>

namespace spanwise {

namespace {

namespace fs = std::filesystem;

// The number behind `key` in a file of lines "key number …"; without a key the file's only number.
std::optional<int64_t> number_in(const fs::path& path, const std::string& key = "") {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key)) continue;
    const size_t at = line.find_first_not_of(" \t", key.size());
    if (at == line.npos || (!key.empty() && at == key.size())) continue;
    int64_t value = 0;
    const auto [end, error] = std::from_chars(line.data() + at, line.data() + line.size(), value);
    if (error == std::errc()) return value;
  }
  return std::nullopt;  // "max", or no such file
}

// The group of this process in a hierarchy: the path behind "0::" (version 2) or ":memory:".
std::string cgroup_path(const fs::path& root, const std::string& mark) {
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t at = line.find(mark);
    if (at != line.npos) return line.substr(at + mark.size());
  }
  return "";
}

struct CgroupFiles {
  const char *mount, *mark, *limit, *used, *cache;
};
constexpr CgroupFiles kVersions[] = {
    {"sys/fs/cgroup", "0::", "memory.max", "memory.current", "inactive_file"},
    {"sys/fs/cgroup/memory", ":memory:", "memory.limit_in_bytes", "memory.usage_in_bytes",
     "total_inactive_file"},
};

// What the group and those above it leave. Inside a container its own group is often mounted as the root.
int64_t left_by_cgroups(const fs::path& root, const CgroupFiles& files) {
  int64_t left = INT64_MAX;
  const fs::path mount = root / files.mount;
  for (fs::path group = mount / fs::path(cgroup_path(root, files.mark)).relative_path();;
       group = group.parent_path()) {
    const auto limit = number_in(group / files.limit), used = number_in(group / files.used);
    if (limit && used) {
      const int64_t cache = number_in(group / "memory.stat", files.cache).value_or(0);
      left = std::min(left, std::max<int64_t>(0, *limit - *used + cache));
    }
    if (group == mount || !group.has_relative_path()) return left;
  }
}

}  // namespace

int64_t available_host_bytes(const fs::path& root) {
  int64_t available = INT64_MAX;
  if (const auto kib = number_in(root / "proc/meminfo", "MemAvailable:")) available = *kib * 1024;
  for (const CgroupFiles& files : kVersions) available = std::min(available, left_by_cgroups(root, files));
  return available;
}

}  // namespace spanwise
