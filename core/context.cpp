#include "core/context.h"

#include <omp.h>

#include "core/check.h"
#include "core/cuda/cuda_memory.h"
#include "core/dispatch.h"
#include "core/dry_memory.h"

namespace spanwise {

namespace {

std::shared_ptr<Memory> make_memory(const ContextOptions& options) {
  if (options.dry) return make_dry_memory(options.device);
  if (options.device == Device::kCPU) return make_cpu_memory(options.poison);
  if constexpr (kHasCuda) return cuda::make_memory(options.gpu, options.poison);
  fail_user("device CUDA is not in this build; set device: CPU, or build where nvcc is found.");
}

}  // namespace

Context::Context(ContextOptions options) : options_(options), memory_(make_memory(options)) {
  SPANWISE_CHECK(options.num_threads >= 1, "num_threads={} must be at least 1", options.num_threads);
  if (!options.dry) omp_set_num_threads(options.num_threads);
}

Context::~Context() = default;

void Context::synchronize() const {
  if constexpr (kHasCuda) {
    if (device() == Device::kCUDA && !dry()) cuda::synchronize(stream());
  }
}

Work Context::work() const {
  const std::lock_guard lock(work_mutex_);
  return work_;
}

void Context::reset_work() {
  const std::lock_guard lock(work_mutex_);
  work_ = {};
}

void Context::count(const Work& work) const {
  const std::lock_guard lock(work_mutex_);
  (recomputations_ > 0 ? work_.recomputed_flops : work_.flops) += work.flops;
  work_.recomputed_flops += work.recomputed_flops;
  work_.bytes += work.bytes;
}

Recomputation::Recomputation(const Context& ctx) : ctx_(ctx) {
  const std::lock_guard lock(ctx.work_mutex_);
  ++ctx.recomputations_;
}

Recomputation::~Recomputation() {
  const std::lock_guard lock(ctx_.work_mutex_);
  --ctx_.recomputations_;
}

int num_gpus() {
  if constexpr (kHasCuda) return cuda::num_gpus();
  return 0;
}

std::string gpu_id(int gpu) {
  if constexpr (kHasCuda) return cuda::gpu_id(gpu);
  SPANWISE_FAIL("GPU {} has no name in a build without CUDA", gpu);
}

std::string gpu_name(int gpu) {
  if constexpr (kHasCuda) return cuda::gpu_name(gpu);
  SPANWISE_FAIL("GPU {} has no name in a build without CUDA", gpu);
}

bool cuda_available() {
  return num_gpus() > 0;
}

}  // namespace spanwise
