#pragma once
// What an op needs beside its operands: the device, the threads and the memory. Passed, never global.

#include <cstddef>
#include <cstdint>
#include <memory>

namespace spanwise {

enum class Device : uint8_t { kCPU, kCUDA };

/// Memory handed out by a Context's allocator; given back to its cache on destruction.
class Buffer {
 public:
  virtual ~Buffer() = default;
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 protected:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

struct MemoryStats {
  size_t live_bytes = 0;      ///< held by tensors now
  size_t peak_bytes = 0;      ///< most ever held by tensors since reset_peak()
  size_t reserved_bytes = 0;  ///< taken from the system: live plus cached
};

struct ContextOptions {
  Device device = Device::kCPU;
  int num_threads = 1;  ///< OpenMP and BLAS threads of this process
  /// Fill every allocation with NaN bytes (0xFF), so that a test sees reads of memory that nobody wrote.
  bool poison = false;
};

/// One per process and device: creating one sets the process's OpenMP and BLAS thread count.
class Context {
 public:
  explicit Context(ContextOptions options = {});
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  Device device() const { return options_.device; }
  int num_threads() const { return options_.num_threads; }

  /// Uninitialised memory, 64-byte aligned. Freed blocks are cached by size and handed out again.
  /// Thread-safe. Buffers may outlive the Context.
  std::shared_ptr<Buffer> allocate(size_t bytes);
  MemoryStats memory() const;
  void reset_peak();
  /// Returns cached blocks to the system.
  void release_cache();

 private:
  class Allocator;
  ContextOptions options_;
  std::shared_ptr<Allocator> allocator_;
};

}  // namespace spanwise
