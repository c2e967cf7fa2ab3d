#pragma once
// What an op needs beside its operands: the device, the threads and the memory. Passed, never global.

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <typeindex>

#include "core/memory.h"

namespace spanwise {

struct ContextOptions {
  Device device = Device::kCPU;
  int num_threads = 1;  ///< OpenMP and BLAS threads of this process
  /// Fill every allocation with NaN bytes (0xFF), so that a test sees reads of memory that nobody wrote.
  bool poison = false;
  int gpu = 0;  ///< with Device::kCUDA: which of the GPUs this process sees
};

/// One per process and device: creating one sets the process's OpenMP and BLAS thread count, and with
/// Device::kCUDA the process's current GPU. UserError where there is no such GPU.
class Context {
 public:
  explicit Context(ContextOptions options = {});
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  Device device() const { return options_.device; }
  int num_threads() const { return options_.num_threads; }
  /// Where this Context's GPU work goes, in order; nullptr on the CPU.
  CUstream_st* stream() const { return memory_->stream(); }

  /// Freed memory is cached and handed out again. Thread-safe. Buffers may outlive the Context.
  std::shared_ptr<Buffer> allocate(size_t bytes) { return std::make_shared<Buffer>(memory_, bytes); }
  MemoryStats memory() const { return memory_->stats(); }
  void reset_peak() { memory_->reset_peak(); }
  /// Returns cached blocks to the system.
  void release_cache() { memory_->release_cache(); }
  /// Waits until all GPU work started so far is done; on the CPU it always is.
  void synchronize() const;

  /// The one T of this Context, made as T(*this) when first asked for: handles of libraries, workspaces.
  template <class T>
  T& attached();

 private:
  ContextOptions options_;
  std::shared_ptr<Memory> memory_;
  std::mutex attached_mutex_;
  std::map<std::type_index, std::shared_ptr<void>> attached_;
};

template <class T>
T& Context::attached() {
  const std::lock_guard lock(attached_mutex_);
  std::shared_ptr<void>& slot = attached_[typeid(T)];
  if (!slot) slot = std::make_shared<T>(*this);
  return *static_cast<T*>(slot.get());
}

/// True if this build has CUDA and this machine a GPU that it can use.
bool cuda_available();
/// GPUs this process sees; 0 without CUDA.
int num_gpus();
/// 16 bytes that name one of them, the same in every process that sees it and no other GPU's (its UUID).
std::string gpu_id(int gpu);

}  // namespace spanwise
