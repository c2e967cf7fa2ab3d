#pragma once
// The memory of a dry Context (core/context.h): of a device that need not be there. It counts what tensors
// would take of it, by that device's rounding, and has none.

#include <memory>

#include "core/memory.h"

namespace spanwise {

/// Addresses are distinct and aligned as the device's; nobody may read or write there: to do so faults.
/// Nothing is filled, set or copied, and to_host gives zeros. reserved_bytes: on the CPU what its caches
/// would hold; on a GPU the most that was ever live, without the pool's fragments.
std::shared_ptr<Memory> make_dry_memory(Device device);

}  // namespace spanwise
