#pragma once
// Host memory that GPUs copy to and from at full speed (core/pinned_buffer.h).

#include <cstddef>

namespace spanwise::cuda {

/// nullptr when there is no more.
void* allocate_pinned(size_t bytes);
void free_pinned(void* data) noexcept;

}  // namespace spanwise::cuda
