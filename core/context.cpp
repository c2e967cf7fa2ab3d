#include "core/context.h"

#include <omp.h>

#include "core/check.h"
#include "core/cuda/cuda_memory.h"
#include "core/dispatch.h"

namespace spanwise {

namespace {

std::shared_ptr<Memory> make_memory(const ContextOptions& options) {
  if (options.device == Device::kCPU) return make_cpu_memory(options.poison);
  if constexpr (kHasCuda) return cuda::make_memory(options.gpu, options.poison);
  fail_user("device CUDA is not in this build; set device: CPU, or build where nvcc is found.");
}

}  // namespace

Context::Context(ContextOptions options) : options_(options), memory_(make_memory(options)) {
  SPANWISE_CHECK(options.num_threads >= 1, "num_threads={} must be at least 1", options.num_threads);
  omp_set_num_threads(options.num_threads);
}

Context::~Context() = default;

void Context::synchronize() const {
  if constexpr (kHasCuda) {
    if (device() == Device::kCUDA) cuda::synchronize(stream());
  }
}

int num_gpus() {
  if constexpr (kHasCuda) return cuda::num_gpus();
  return 0;
}

std::string gpu_id(int gpu) {
  if constexpr (kHasCuda) return cuda::gpu_id(gpu);
  SPANWISE_FAIL("GPU {} has no name in a build without CUDA", gpu);
}

bool cuda_available() {
  return num_gpus() > 0;
}

}  // namespace spanwise
