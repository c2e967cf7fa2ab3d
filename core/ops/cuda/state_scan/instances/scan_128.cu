#include "core/ops/cuda/state_scan/kernel.cuh"

namespace spanwise::cuda {

template <>
void launch_state_scan<128>(const ScanParams& params, cudaStream_t stream) {
  scan::launch<128>(params, stream);
}

}  // namespace spanwise::cuda
