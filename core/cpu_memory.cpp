#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "core/memory.h"

namespace spanwise {

namespace {

/// Caches freed blocks by size class.
class CpuMemory final : public Memory {
 public:
  explicit CpuMemory(bool poison) : poison_(poison) {}
  ~CpuMemory() override { CpuMemory::release_cache(); }

  Device device() const override { return Device::kCPU; }

  void* allocate(size_t bytes) override {
    const size_t size = allocation_bytes(Device::kCPU, bytes);
    void* data = nullptr;
    {
      std::lock_guard lock(mutex_);
      if (auto it = cache_.find(size); it != cache_.end() && !it->second.empty()) {
        data = it->second.back();
        it->second.pop_back();
      } else {
        data = std::aligned_alloc(64, size);
        if (!data)
          fail_user(
              "Out of memory: {} bytes more than the {} held could not be had. Reduce train.micro_batch or "
              "train.sequence_length, or set train.activation_checkpointing: true.",
              size, stats_.reserved_bytes);
        stats_.reserved_bytes += size;
      }
      stats_.live_bytes += size;
      stats_.peak_bytes = std::max(stats_.peak_bytes, stats_.live_bytes);
    }
    if (poison_) std::memset(data, 0xFF, size);
    return data;
  }

  void free(void* data, size_t bytes) noexcept override {
    const size_t size = allocation_bytes(Device::kCPU, bytes);
    std::lock_guard lock(mutex_);
    stats_.live_bytes -= size;
    cache_[size].push_back(data);
  }

  MemoryStats stats() const override {
    std::lock_guard lock(mutex_);
    return stats_;
  }

  void reset_peak() override {
    std::lock_guard lock(mutex_);
    stats_.peak_bytes = stats_.live_bytes;
  }

  void release_cache() override {
    std::lock_guard lock(mutex_);
    for (auto& [size, blocks] : cache_) {
      for (void* block : blocks) {
        std::free(block);
        stats_.reserved_bytes -= size;
      }
    }
    cache_.clear();
  }

  void set_zero(void* to, size_t bytes) override { std::memset(to, 0, bytes); }

  void fill(void* to, DType dtype, int64_t numel, double value) override {
    dispatch_float(dtype, [&](auto zero) {
      using T = decltype(zero);
      std::fill_n(static_cast<T*>(to), numel, T(value));
    });
  }

  void copy_rows(void* to, size_t to_stride, const void* from, size_t from_stride, size_t row_bytes,
                 size_t rows) override {
    for (size_t r = 0; r < rows; ++r) {
      std::memcpy(static_cast<char*>(to) + r * to_stride, static_cast<const char*>(from) + r * from_stride,
                  row_bytes);
    }
  }

  void from_host(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void to_host(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }

 private:
  mutable std::mutex mutex_;
  std::map<size_t, std::vector<void*>> cache_;
  MemoryStats stats_;
  bool poison_;
};

}  // namespace

size_t allocation_bytes(Device device, size_t bytes) {
  if (device == Device::kCUDA) return std::max<size_t>(bytes, 256);
  const size_t size = std::max<size_t>(bytes, 512);
  size_t power = 512;
  while (power * 2 <= size) power *= 2;
  const size_t step = std::max<size_t>(power / 8, 64);
  return (size + step - 1) / step * step;
}

std::shared_ptr<Memory> make_cpu_memory(bool poison) {
  return std::make_shared<CpuMemory>(poison);
}

}  // namespace spanwise
