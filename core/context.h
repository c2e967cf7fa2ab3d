#pragma once
// What an op needs beside its operands: the device, the threads and the memory. Passed, never global.

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <typeindex>

#include "core/memory.h"
#include "core/work.h"

namespace spanwise {

struct ContextOptions {
  Device device = Device::kCPU;
  int num_threads = 1;  ///< OpenMP and BLAS threads of this process
  /// Fill every allocation with NaN bytes (0xFF), so that a test sees reads of memory that nobody wrote.
  bool poison = false;
  int gpu = 0;  ///< with Device::kCUDA: which of the GPUs this process sees
  /// No memory and no kernels: `device` need not be there, nor this build have kernels for it. What runs on
  /// such a Context takes the memory that it would take, says the work that it would do, and computes
  /// nothing: values of its tensors are not there, and must not decide anything.
  bool dry = false;
};

/// One per process and device: creating one sets the process's OpenMP and BLAS thread count, and with
/// Device::kCUDA the process's current GPU. UserError where there is no such GPU. A dry one sets and asks
/// nothing.
class Context {
 public:
  explicit Context(ContextOptions options = {});
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  Device device() const { return options_.device; }
  int num_threads() const { return options_.num_threads; }
  /// With Device::kCUDA: which of the GPUs this process sees.
  int gpu() const { return options_.gpu; }
  bool dry() const { return options_.dry; }
  /// Where this Context's GPU work goes, in order; nullptr on the CPU and on a dry Context.
  CUstream_st* stream() const { return memory_->stream(); }

  /// Freed memory is cached and handed out again. Thread-safe. Buffers may outlive the Context.
  std::shared_ptr<Buffer> allocate(size_t bytes) { return std::make_shared<Buffer>(memory_, bytes); }
  MemoryStats memory() const { return memory_->stats(); }
  void reset_peak() { memory_->reset_peak(); }
  /// Returns cached blocks to the system.
  void release_cache() { memory_->release_cache(); }
  /// Waits until all GPU work started so far is done; on the CPU it always is.
  void synchronize() const;

  /// What ops did, or on a dry Context would have done, since reset_work().
  Work work() const;
  void reset_work();
  /// Called by dispatch. During a Recomputation flops count as recomputed_flops.
  void count(const Work& work) const;

  /// The one T of this Context, made as T(*this) when first asked for: handles of libraries, workspaces.
  template <class T>
  T& attached();

 private:
  friend class Recomputation;

  ContextOptions options_;
  std::shared_ptr<Memory> memory_;
  mutable std::mutex work_mutex_;
  mutable Work work_;
  mutable int recomputations_ = 0;  // under way
  std::mutex attached_mutex_;
  std::map<std::type_index, std::shared_ptr<void>> attached_;
};

/// While one lives, what ops of ctx do is done again: for backward, which kept less than it reads.
class Recomputation {
 public:
  explicit Recomputation(const Context& ctx);
  ~Recomputation();
  Recomputation(const Recomputation&) = delete;
  Recomputation& operator=(const Recomputation&) = delete;

 private:
  const Context& ctx_;
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
/// As its driver names it: "NVIDIA H200".
std::string gpu_name(int gpu);

}  // namespace spanwise
