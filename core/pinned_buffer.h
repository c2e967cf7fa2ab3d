#pragma once
// Host memory that a GPU copies to at full speed (pinned); on the CPU memory in huge pages where the kernel
// has them. It is no Context's: memory plans and peaks of training do not count it.

#include <cstddef>

#include "core/memory.h"

namespace spanwise {

class PinnedBuffer {
 public:
  /// Uninitialised, aligned to a page. UserError when there is no more.
  PinnedBuffer(Device device, size_t bytes);
  ~PinnedBuffer();
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;
  char* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  Device device_;
  size_t bytes_;
  char* data_;
};

}  // namespace spanwise
