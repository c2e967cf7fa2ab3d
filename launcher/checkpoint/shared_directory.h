#pragma once
// Whether all ranks see one file system, before several of them write to a checkpoint.

#include <filesystem>

#include "parallel/comm.h"

namespace spanwise {

/// Rank 0 writes a file to `directory`, and every rank looks for it there, each by its own path. UserError on
/// every rank, naming the first that does not see it and checkpoint.writers ONE as the way out. Collective;
/// leaves nothing.
void require_shared_directory(Comm& world, const std::filesystem::path& directory);

}  // namespace spanwise
