#pragma once
// From the configuration to objects: the literal tables between the schema's names and the library's.

#include <memory>

#include "configs/run_config.pb.h"
#include "core/dtype.h"
#include "core/optim/schedule.h"
#include "data/loader.h"
#include "data/tokenizer.h"
#include "launcher/rank_batch.h"
#include "models/language_model.h"
#include "parallel/mesh.h"
#include "parallel/param_store.h"

namespace spanwise {

// Only for configs without config_problems.
DType compute_dtype(const config::RunConfig& config);
std::unique_ptr<Tokenizer> make_tokenizer(const config::TokenizerConfig& tokenizer);
MeshShape mesh_shape(const config::RunConfig& config, int world_size);
SequenceOptions sequence_options(const config::RunConfig& config, const Mesh& mesh);
/// Sequence ranks of a node, for TWO_LEVEL: parallel.ranks_per_node, or the largest size that divides every
/// run of neighbours on one machine; `machines` are those of the sequence ranks, equal on all of them.
/// UserError where that leaves every rank alone although some share a machine.
int ranks_per_node(const config::ParallelConfig& parallel, const std::vector<int>& machines);
ParamStoreOptions param_store_options(const config::RunConfig& config, const LanguageModel& model);
/// The model as the mesh's tensor axis divides it; the mesh must outlive it.
LanguageModelOptions language_model_options(const config::RunConfig& config, int64_t vocab_size,
                                            const Mesh& mesh);
Schedule schedule_of(const config::RunConfig& config);
LoaderOptions loader_options(const config::RunConfig& config, int64_t vocab_size);

}  // namespace spanwise
