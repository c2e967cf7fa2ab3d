#include "core/context.h"

#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "core/check.h"

namespace spanwise {

/// Caches freed blocks by size class (steps of 1/8 of a power of two, so at most 12.5% is wasted).
class Context::Allocator : public std::enable_shared_from_this<Context::Allocator> {
 public:
  explicit Allocator(bool poison) : poison_(poison) {}
  ~Allocator() { release_cache(); }

  std::shared_ptr<Buffer> allocate(size_t bytes);

  MemoryStats stats() const {
    std::lock_guard lock(mutex_);
    return stats_;
  }

  void reset_peak() {
    std::lock_guard lock(mutex_);
    stats_.peak_bytes = stats_.live_bytes;
  }

  void release_cache() {
    std::lock_guard lock(mutex_);
    for (auto& [size, blocks] : cache_) {
      for (void* block : blocks) {
        std::free(block);
        stats_.reserved_bytes -= size;
      }
    }
    cache_.clear();
  }

 private:
  struct Block;

  static size_t round_up(size_t bytes) {
    size_t size = std::max<size_t>(bytes, 512);
    size_t power = 512;
    while (power * 2 <= size) power *= 2;
    const size_t step = std::max<size_t>(power / 8, 64);
    return (size + step - 1) / step * step;
  }

  void give_back(void* data, size_t size) noexcept {
    std::lock_guard lock(mutex_);
    stats_.live_bytes -= size;
    cache_[size].push_back(data);
  }

  mutable std::mutex mutex_;
  std::map<size_t, std::vector<void*>> cache_;
  MemoryStats stats_;
  bool poison_;
};

struct Context::Allocator::Block : Buffer {
  Block(std::shared_ptr<Allocator> owner, void* data, size_t bytes) : owner_(std::move(owner)) {
    data_ = data;
    bytes_ = bytes;
  }
  ~Block() override { owner_->give_back(data_, bytes_); }
  std::shared_ptr<Allocator> owner_;
};

std::shared_ptr<Buffer> Context::Allocator::allocate(size_t bytes) {
  const size_t size = round_up(bytes);
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
  return std::make_shared<Block>(shared_from_this(), data, size);
}

Context::Context(ContextOptions options)
    : options_(options), allocator_(std::make_shared<Allocator>(options.poison)) {
  SPANWISE_CHECK(options.device == Device::kCPU, "this build has no CUDA; the device must be the CPU");
  SPANWISE_CHECK(options.num_threads >= 1, "num_threads={} must be at least 1", options.num_threads);
  omp_set_num_threads(options.num_threads);
}

Context::~Context() = default;

std::shared_ptr<Buffer> Context::allocate(size_t bytes) {
  return allocator_->allocate(bytes);
}
MemoryStats Context::memory() const {
  return allocator_->stats();
}
void Context::reset_peak() {
  allocator_->reset_peak();
}
void Context::release_cache() {
  allocator_->release_cache();
}

}  // namespace spanwise
