// With SPANWISE_TEST_KERNELS=FILE a test program adds to FILE the mangled name of every kernel that it
// launches, one a line: tests/gpu_sanitize.sh holds them against those that the library has. The linker's
// --wrap puts the function below in the place of the one that <<<>>> calls.

#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>
#include <string>

namespace {

class LaunchedKernels {
 public:
  LaunchedKernels() {
    if (const char* path = std::getenv("SPANWISE_TEST_KERNELS")) file_ = std::fopen(path, "a");
  }
  void add(cudaKernel_t kernel) {
    if (!file_) return;
    const std::lock_guard lock(mutex_);
    const char* name = nullptr;
    if (!known_.insert(kernel).second || cudaFuncGetName(&name, kernel) != cudaSuccess) return;
    std::fputs((std::string(name) + "\n").c_str(), file_);
    std::fflush(file_);  // several programs may write to the file: a line at once
  }

 private:
  std::FILE* file_ = nullptr;
  std::mutex mutex_;
  std::set<cudaKernel_t> known_;
};

}  // namespace

extern "C" {

cudaError_t __real___cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, size_t, cudaStream_t);

cudaError_t __wrap___cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** args,
                                      size_t shared_bytes, cudaStream_t stream) {
  static LaunchedKernels launched;
  launched.add(kernel);
  return __real___cudaLaunchKernel(kernel, grid, block, args, shared_bytes, stream);
}

}  // extern "C"
