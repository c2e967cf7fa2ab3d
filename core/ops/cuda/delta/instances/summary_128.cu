#include "core/ops/cuda/delta/summary_maps.cuh"

template void spanwise::cuda::delta::launch_summarize_of<128>(cudaStream_t, const SummaryArgs&);
