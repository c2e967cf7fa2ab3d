#include "core/ops/cuda/delta/retreat.cuh"

template void spanwise::cuda::delta::launch_retreat_of<256>(cudaStream_t, const RetreatArgs&);
