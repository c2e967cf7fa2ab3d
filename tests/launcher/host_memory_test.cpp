#include "launcher/host_memory.h"

#include <gtest/gtest.h>

#include "core/file_io.h"
#include "tests/testing/temp_dir.h"

namespace spanwise {
namespace {

constexpr int64_t kMiB = 1 << 20;

class HostMemory : public testing::Test {
 protected:
  void write(const std::string& name, const std::string& content) {
    make_directories((root_ / name).parent_path());
    write_file(root_ / name, content);
  }
  TempDir root_;
};

TEST_F(HostMemory, UnknownIsNoLimit) {
  EXPECT_EQ(available_host_bytes(root_.path()), INT64_MAX);
}

TEST_F(HostMemory, IsWhatTheMachineHasAvailable) {
  write("proc/meminfo", "MemTotal:  99999 kB\nMemFree:  1 kB\nMemAvailable:   2048 kB\n");
  EXPECT_EQ(available_host_bytes(root_.path()), 2 * kMiB);
}

TEST_F(HostMemory, IsWhatTheNarrowestGroupLeavesAndPageCacheCanGo) {
  write("proc/meminfo", "MemAvailable:   1048576 kB\n");
  write("proc/self/cgroup", "0::/job/step\n");
  write("sys/fs/cgroup/job/step/memory.max", "max\n");
  write("sys/fs/cgroup/job/step/memory.current", "1\n");
  EXPECT_EQ(available_host_bytes(root_.path()), 1024 * kMiB);
  write("sys/fs/cgroup/job/memory.max", std::to_string(100 * kMiB));
  write("sys/fs/cgroup/job/memory.current", std::to_string(90 * kMiB));
  write("sys/fs/cgroup/job/memory.stat", "anon 5\ninactive_file " + std::to_string(30 * kMiB) + "\n");
  EXPECT_EQ(available_host_bytes(root_.path()), 40 * kMiB);
  // A container sees its own group as the root.
  write("sys/fs/cgroup/memory.max", std::to_string(50 * kMiB));
  write("sys/fs/cgroup/memory.current", std::to_string(45 * kMiB));
  EXPECT_EQ(available_host_bytes(root_.path()), 5 * kMiB);
}

TEST_F(HostMemory, GroupsOfVersionOneCount) {
  write("proc/self/cgroup", "5:cpu:/x\n4:memory:/slurm/job\n");
  write("sys/fs/cgroup/memory/slurm/job/memory.limit_in_bytes", std::to_string(10 * kMiB));
  write("sys/fs/cgroup/memory/slurm/job/memory.usage_in_bytes", std::to_string(4 * kMiB));
  write("sys/fs/cgroup/memory/slurm/job/memory.stat", "total_inactive_file " + std::to_string(kMiB) + "\n");
  EXPECT_EQ(available_host_bytes(root_.path()), 7 * kMiB);
}

}  // namespace
}  // namespace spanwise
