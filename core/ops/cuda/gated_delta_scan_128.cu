#include "core/ops/cuda/gated_delta_scan.cuh"

template void spanwise::cuda::delta::launch_scan_of<128>(cudaStream_t, const ScanArgs&);
