#include "core/ops/cuda/delta/scan.cuh"

template void spanwise::cuda::delta::launch_scan_of<256>(cudaStream_t, const ScanArgs&);
