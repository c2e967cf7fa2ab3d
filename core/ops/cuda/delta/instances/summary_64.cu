#include "core/ops/cuda/delta/summary_maps.cuh"

template void spanwise::cuda::delta::launch_summarize_of<64>(cudaStream_t, const SummaryArgs&);
