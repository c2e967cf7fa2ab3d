#include "core/ops/cuda/delta/scan.cuh"

template void spanwise::cuda::delta::launch_scan_of<128>(cudaStream_t, const ScanArgs&);
