// A program with the fault that its argument names, for tests/gpu_sanitize.sh to see that the checkers find
// it in memory of the stream-ordered pool and in shared memory: none, global, shared or barrier.

#include <cuda_runtime.h>

#include <cstdio>
#include <string>

namespace spanwise::testing {
namespace {

__global__ void write_kernel(float* to, int numel) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < numel) to[i] = float(i);
}

__global__ void turn_kernel(float* values, bool waits) {
  __shared__ float turned[128];
  turned[threadIdx.x] = values[threadIdx.x];
  if (waits) __syncthreads();
  values[threadIdx.x] = turned[127 - threadIdx.x];
}

__global__ void meet_kernel(float* values, unsigned mask) {
  __syncwarp(mask);
  values[threadIdx.x] += 1;
}

int run(const std::string& fault) {
  constexpr int kNumel = 1000;
  cudaStream_t stream;
  cudaMemPool_t pool;
  float *before, *values, *after;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  cudaDeviceGetDefaultMemPool(&pool, 0);
  for (float** data : {&before, &values, &after})
    cudaMallocFromPoolAsync(data, kNumel * sizeof(float), pool, stream);
  write_kernel<<<8, 128, 0, stream>>>(values, fault == "global" ? kNumel + 1 : kNumel);
  turn_kernel<<<1, 128, 0, stream>>>(values, fault != "shared");
  meet_kernel<<<1, 128, 0, stream>>>(values, fault == "barrier" ? 0xfffffffeu : 0xffffffffu);
  const cudaError_t error = cudaStreamSynchronize(stream);
  std::printf("%s: %s\n", fault.c_str(), cudaGetErrorString(error));
  return error == cudaSuccess ? 0 : 2;
}

}  // namespace
}  // namespace spanwise::testing

int main(int, char** argv) {
  return spanwise::testing::run(argv[1] ? argv[1] : "none");
}
