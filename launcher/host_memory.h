#pragma once
// How much memory of this machine a process can still have.

#include <cstdint>
#include <filesystem>

namespace spanwise {

/// The lesser of what the machine has available and what the container's limits (cgroups, version 1 or 2)
/// leave, page cache that can go not counted as used; INT64_MAX where neither is known. `root` stands for
/// "/".
int64_t available_host_bytes(const std::filesystem::path& root = "/");

}  // namespace spanwise
