#pragma once
// Saves checkpoints while training goes on.
//
//   CheckpointSaver saver(config, mesh, params, optimizer);
//   every step:    report(saver.poll());
//   a save is due: report(saver.finish()); saver.begin(manifest, step);
//   before leaving: report(saver.finish());
//
// begin() copies parameters and moments to host memory; a thread that calls no collective writes the files
// meanwhile (shard_plan.h says which) and sums them as it does, and the directory stands under its name, and
// old ones are pruned, when poll() or finish() says so. One save at a time is under way. Where the copy does
// not fit into memory, begin() copies piece by piece and returns when all is written; notice() says so.
//
// All ranks call begin(), poll() and finish() alike, and these agree on what became of a save: a rank that
// cannot write fails it for all. What stood there before stays then, and the next save may be begun. A slow
// disk holds up no collective that could time out.
//
// checkpoint.writers: with ONE, rank 0 gets what it lacks from the other ranks, and writes everything. With
// ALL, tensor rank 0 of every data × sequence position gets and writes its own tensors, to a file system that
// the constructor proves to be one.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "launcher/checkpoint/manifest.pb.h"
#include "launcher/config/config.h"
#include "parallel/mesh.h"
#include "parallel/sharded_adamw.h"

namespace spanwise {

/// What became of a save: the same on every rank.
struct SaveOutcome {
  int64_t step = 0;
  bool failed = false;
  std::string directory;  ///< where it stands
  std::string failure;    ///< why it does not: one sentence
};

/// Tests make these small, or slow.
struct SaverOptions {
  int64_t block_bytes = int64_t{64} << 20;     ///< copied and sent at once
  std::function<int64_t()> available_bytes{};  ///< of host memory; none: available_host_bytes
  std::function<void()> before_reserve{};  ///< called before the blocks of a save without a copy are taken
  std::function<void()> before_write{};    ///< called by the thread before each block
};

class CheckpointSaver {
 public:
  /// All but the mesh's axes must outlive the saver. Collective. UserError on rank 0 if checkpoint_dir cannot
  /// take a checkpoint: not writable, or too little free space; on all ranks if ALL cannot be.
  CheckpointSaver(const RunConfig& config, const Mesh& mesh, const ParamStore& params,
                  const ShardedAdamW& optimizer, SaverOptions options = {});
  /// Waits for the thread. A save that several ranks write and that was not waited for is given up.
  ~CheckpointSaver();
  CheckpointSaver(const CheckpointSaver&) = delete;
  CheckpointSaver& operator=(const CheckpointSaver&) = delete;

  /// Collective; nothing is under way. Starts to save the values and moments of now as those of `step`:
  /// training may change them when this returns. An error becomes the outcome. Of the manifest what
  /// run_manifest.h fills in counts, on rank 0.
  void begin(Manifest manifest, int64_t step);
  /// Whether a save is under way: the same on every rank.
  bool pending() const;
  /// Collective. The outcome of a save that is no longer under way, once. Costs nothing while none is
  /// pending, and one small sum while one is.
  std::optional<SaveOutcome> poll();
  /// Collective. Waits until the save under way stands under its name, old ones are pruned, or it failed;
  /// gives what poll() would.
  std::optional<SaveOutcome> finish();
  /// Milliseconds that training stood still in the calls above since this was last asked.
  double take_wait_ms();
  /// What is to be told of how checkpoints are saved, once; empty: nothing.
  std::string take_notice();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// The ranks that write: data × sequence positions with ALL, 1 with ONE. AUTO is ALL where ranks are on
/// several machines.
int num_checkpoint_writers(const RunConfig& config, int positions, bool several_machines);

}  // namespace spanwise
