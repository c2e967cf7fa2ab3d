#pragma once
// Saves checkpoints while training goes on.
//
//   CheckpointSaver saver(config, mesh, params, optimizer);
//   every step:   report(saver.poll());
//   a save is due: report(saver.finish()); saver.begin(manifest, step);
//   before leaving: report(saver.finish());
//
// begin() copies parameters and moments; the directory is written meanwhile, by threads that call no
// collective, and stands under its name when poll() or finish() says so. One save at a time is under way.
// All ranks call begin(), poll() and finish() alike, and these agree on what became of a save: a rank that
// cannot write fails it for all. What stood there before stays then, and the next save may be begun. Waiting
// for a slow disk is no collective that could time out.
//
// What is written: save_state.h.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "launcher/checkpoint/manifest.pb.h"
#include "launcher/config.h"
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

class CheckpointSaver {
 public:
  /// All but the mesh's axes must outlive the saver. Collective. UserError on rank 0 if checkpoint_dir cannot
  /// take a checkpoint: not writable, or too little free space.
  CheckpointSaver(const RunConfig& config, const Mesh& mesh, const ParamStore& params,
                  const ShardedAdamW& optimizer);
  /// A save under way that was not waited for is given up.
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

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace spanwise
