#include "core/ops/cuda/delta/scan.cuh"

template void spanwise::cuda::delta::launch_scan_of<64>(cudaStream_t, const ScanArgs&);
