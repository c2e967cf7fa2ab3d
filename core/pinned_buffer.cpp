#include "core/pinned_buffer.h"

#include <sys/mman.h>

#include <algorithm>

#include "core/check.h"
#include "core/cuda/pinned_host.h"
#include "core/dispatch.h"

namespace spanwise {
namespace {

char* map_memory(size_t bytes) {
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  ::madvise(data, bytes, MADV_HUGEPAGE);  // a wish: fewer page faults at the first copy
  return static_cast<char*>(data);
}

char* allocate(Device device, size_t bytes) {
  if constexpr (kHasCuda) {
    if (device == Device::kCUDA) return static_cast<char*>(cuda::allocate_pinned(bytes));
  }
  return map_memory(bytes);
}

void give_back(Device device, char* data, size_t bytes) {
  if constexpr (kHasCuda) {
    if (device == Device::kCUDA) return cuda::free_pinned(data);
  }
  ::munmap(data, bytes);
}

}  // namespace

PinnedBuffer::PinnedBuffer(Device device, size_t bytes)
    : device_(device), bytes_(std::max<size_t>(bytes, 1)), data_(allocate(device_, bytes_)) {
  if (!data_) fail_user("{} MiB of host memory more could not be had", bytes_ >> 20);
}

PinnedBuffer::~PinnedBuffer() {
  give_back(device_, data_, bytes_);
}

}  // namespace spanwise
