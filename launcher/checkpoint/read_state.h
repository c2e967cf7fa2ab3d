#pragma once
// The tensors of a checkpoint from its files to the ranks: rank 0 reads each byte once, in file order, sums
// it on the way and hands each piece on to the ranks that hold some of it (parallel/whole_params.h).

#include <string_view>
#include <vector>

#include "launcher/checkpoint/shared_checkpoint.h"
#include "launcher/checkpoint/state_files.h"
#include "parallel/whole_params.h"

namespace spanwise {

/// UserError on rank 0 if a file with tensors of one of these stems (shard_plan.h) is missing, or shorter or
/// longer than the manifest says: it costs nothing, and names all of them before anything is read.
void require_whole_files(const SharedCheckpoint& checkpoint, const std::vector<std::string_view>& stems);

/// Fills `buffers` with the tensors of `stem`, from one file or from shards. UserError on rank 0 if a file is
/// damaged, or the tensors are not those of the parameters. Values are published by the caller. Collective.
void read_tensors(const SharedCheckpoint& checkpoint, std::string_view stem, const ParamHolders& holders,
                  Comm& world, const std::vector<NamedBuffer>& buffers);

}  // namespace spanwise
