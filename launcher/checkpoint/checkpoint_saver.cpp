#include "launcher/checkpoint/checkpoint_saver.h"

#include <chrono>
#include <utility>
#include <vector>

#include "launcher/checkpoint/save_state.h"

namespace spanwise {

namespace {

using Clock = std::chrono::steady_clock;

}  // namespace

class CheckpointSaver::Impl {
 public:
  Impl(const RunConfig& config, const Mesh& mesh, const ParamStore& params, const ShardedAdamW& optimizer)
      : config_(config), mesh_(mesh), params_(params), optimizer_(optimizer) {}

  void begin(Manifest manifest, int64_t step) {
    SPANWISE_CHECK(!outcome_, "a save of step {} is begun while another is under way", step);
    const auto start = Clock::now();
    SaveOutcome outcome{.step = step};
    try {
      outcome.directory = save_checkpoint(config_, std::move(manifest), step, params_, optimizer_);
    } catch (const UserError& error) {
      outcome.failure = error.what();
    }
    std::vector<double> failed{outcome.failure.empty() ? 0.0 : 1.0};
    mesh_.world().all_reduce("checkpoint_state", failed, Reduce::kMax);
    outcome.failed = failed[0] > 0;
    mesh_.world().broadcast("checkpoint_state", outcome.failed ? outcome.failure : outcome.directory);
    outcome_ = std::move(outcome);
    wait_ms_ += std::chrono::duration<double, std::milli>(Clock::now() - start).count();
  }
  bool pending() const { return outcome_.has_value(); }
  std::optional<SaveOutcome> finish() { return std::exchange(outcome_, std::nullopt); }
  double take_wait_ms() { return std::exchange(wait_ms_, 0); }

 private:
  const RunConfig& config_;
  const Mesh& mesh_;
  const ParamStore& params_;
  const ShardedAdamW& optimizer_;
  std::optional<SaveOutcome> outcome_;
  double wait_ms_ = 0;
};

CheckpointSaver::CheckpointSaver(const RunConfig& config, const Mesh& mesh, const ParamStore& params,
                                 const ShardedAdamW& optimizer)
    : impl_(std::make_unique<Impl>(config, mesh, params, optimizer)) {
  if (mesh.world().rank() == 0) check_checkpoint_dir(config, params);
}

CheckpointSaver::~CheckpointSaver() = default;

void CheckpointSaver::begin(Manifest manifest, int64_t step) {
  impl_->begin(std::move(manifest), step);
}

bool CheckpointSaver::pending() const {
  return impl_->pending();
}

std::optional<SaveOutcome> CheckpointSaver::poll() {
  return impl_->finish();
}

std::optional<SaveOutcome> CheckpointSaver::finish() {
  return impl_->finish();
}

double CheckpointSaver::take_wait_ms() {
  return impl_->take_wait_ms();
}

}  // namespace spanwise
