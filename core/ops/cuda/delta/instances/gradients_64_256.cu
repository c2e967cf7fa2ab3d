#include "core/ops/cuda/delta/gradients.cuh"

template void spanwise::cuda::delta::launch_gradients_of<64, 256>(cudaStream_t, const GradientArgs&);
