#pragma once
// The memory of one device: allocation, and the few things a tensor does without an op. On a GPU everything
// below happens in the order of the compute stream, so that a freed block is handed out again at once and
// nothing waits; only to_host does.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/dtype.h"

/// CUDA's stream, so that no header includes CUDA.
struct CUstream_st;

namespace spanwise {

enum class Device : uint8_t { kCPU, kCUDA };

constexpr const char* name_of(Device device) {
  return device == Device::kCPU ? "CPU" : "CUDA";
}

struct MemoryStats {
  size_t live_bytes = 0;      ///< held by tensors now
  size_t peak_bytes = 0;      ///< most ever held by tensors since reset_peak()
  size_t reserved_bytes = 0;  ///< taken from the system or the GPU: live, cached and fragments
  int64_t host_waits = 0;     ///< times to_host() made the host wait for a GPU
};

class Memory {
 public:
  virtual ~Memory() = default;
  virtual Device device() const = 0;
  virtual CUstream_st* stream() const { return nullptr; }

  /// Uninitialised and aligned to 64 bytes (256 on a GPU). UserError when there is no more. Thread-safe.
  virtual void* allocate(size_t bytes) = 0;
  virtual void free(void* data, size_t bytes) noexcept = 0;
  virtual MemoryStats stats() const = 0;
  virtual void reset_peak() = 0;
  /// Gives what is cached back to the system.
  virtual void release_cache() = 0;

  virtual void set_zero(void* to, size_t bytes) = 0;
  virtual void fill(void* to, DType dtype, int64_t numel, double value) = 0;
  /// `rows` rows of row_bytes, `to_stride` and `from_stride` bytes apart; both on this device.
  virtual void copy_rows(void* to, size_t to_stride, const void* from, size_t from_stride, size_t row_bytes,
                         size_t rows) = 0;
  /// The host's memory may be reused when this returns.
  virtual void from_host(void* to, const void* from, size_t bytes) = 0;
  /// Waits until everything before it, and the copy, is done.
  virtual void to_host(void* to, const void* from, size_t bytes) = 0;
};

/// What live_bytes counts for an allocation: on the CPU classes of 1/8 of a power of two, so that at most
/// 12.5 % are wasted and freed blocks fit again; on a GPU at least 256 bytes.
size_t allocation_bytes(Device device, size_t bytes);

/// Caches freed blocks by size. `poison`: every allocation is filled with NaN bytes (0xFF).
std::shared_ptr<Memory> make_cpu_memory(bool poison);

/// Memory of one Context; given back on destruction.
class Buffer {
 public:
  Buffer(std::shared_ptr<Memory> memory, size_t bytes)
      : memory_(std::move(memory)), data_(memory_->allocate(bytes)), bytes_(bytes) {}
  ~Buffer() { memory_->free(data_, bytes_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  Memory& memory() const { return *memory_; }

 private:
  std::shared_ptr<Memory> memory_;
  void* data_;
  size_t bytes_;
};

}  // namespace spanwise
