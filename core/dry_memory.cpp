#include "core/dry_memory.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>

namespace spanwise {

namespace {

class DryMemory final : public Memory {
 public:
  explicit DryMemory(Device device) : device_(device) {}

  Device device() const override { return device_; }

  void* allocate(size_t bytes) override {
    const size_t size = allocation_bytes(device_, bytes);
    const std::lock_guard lock(mutex_);
    stats_.live_bytes += size;
    stats_.peak_bytes = std::max(stats_.peak_bytes, stats_.live_bytes);
    if (device_ == Device::kCUDA) {
      stats_.reserved_bytes = std::max(stats_.reserved_bytes, stats_.live_bytes);
    } else if (int64_t& cached = cached_[size]; cached > 0) {
      --cached;
    } else {
      stats_.reserved_bytes += size;
    }
    const uintptr_t data = next_;
    next_ += (size + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<void*>(data);
  }

  void free(void*, size_t bytes) noexcept override {
    const size_t size = allocation_bytes(device_, bytes);
    const std::lock_guard lock(mutex_);
    stats_.live_bytes -= size;
    if (device_ == Device::kCPU) ++cached_[size];
  }

  MemoryStats stats() const override {
    const std::lock_guard lock(mutex_);
    return stats_;
  }
  void reset_peak() override {
    const std::lock_guard lock(mutex_);
    stats_.peak_bytes = stats_.live_bytes;
  }
  void release_cache() override {
    const std::lock_guard lock(mutex_);
    stats_.reserved_bytes = stats_.live_bytes;
    cached_.clear();
  }

  void set_zero(void*, size_t) override {}
  void fill(void*, DType, int64_t, double) override {}
  void copy_rows(void*, size_t, const void*, size_t, size_t, size_t) override {}
  void from_host(void*, const void*, size_t) override {}
  void to_host(void* to, const void*, size_t bytes) override {
    if (bytes > 0) std::memset(to, 0, bytes);
    const std::lock_guard lock(mutex_);
    if (device_ == Device::kCUDA) ++stats_.host_waits;
  }

 private:
  static constexpr size_t kAlignment = 256;

  Device device_;
  mutable std::mutex mutex_;
  MemoryStats stats_;
  std::map<size_t, int64_t> cached_;          // freed blocks of a size
  uintptr_t next_ = uintptr_t{0x4000} << 48;  // no process has memory there
};

}  // namespace

std::shared_ptr<Memory> make_dry_memory(Device device) {
  return std::make_shared<DryMemory>(device);
}

}  // namespace spanwise
