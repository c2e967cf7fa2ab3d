#pragma once
// A GPU's memory (core/memory.h) from the driver's stream-ordered pool: a block freed on the compute stream
// is handed out again without waiting, and in the steady state nothing is taken from the GPU. Host values
// travel through pinned blocks that are used again once their copy is done; arrays larger than
// kMostPinnedPiece in pieces, of which two are under way, so that the host may wait for the first.

#include <cstddef>
#include <memory>
#include <string>

#include "core/memory.h"

namespace spanwise::cuda {

inline constexpr size_t kMostPinnedPiece = size_t{32} << 20;

/// Makes `gpu` the process's current one. UserError where it does not exist or cannot be used.
std::shared_ptr<Memory> make_memory(int gpu, bool poison);
int num_gpus();
std::string gpu_id(int gpu);    ///< core/context.h
std::string gpu_name(int gpu);  ///< core/context.h
/// Of the host, that a GPU's memory copies through.
size_t pinned_bytes(const Memory& memory);
void synchronize(CUstream_st* stream);

}  // namespace spanwise::cuda
