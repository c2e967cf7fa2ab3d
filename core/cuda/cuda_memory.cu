#include "core/cuda/cuda_memory.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <vector>

#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/common/vector.cuh"

namespace spanwise::cuda {

namespace {

/// Host memory that copies to the GPU read while the host goes on. Arrays of more than kPiece, a model's
/// parameters, go piece by piece through kPieces blocks that wait for their last copy; smaller ones get a
/// block each, of which there are as many as are under way at once.
class PinnedBlocks {
 public:
  ~PinnedBlocks() {
    for (const std::vector<Block>* list : {&blocks_, &pieces_}) {
      for (const Block& block : *list) {
        cudaEventDestroy(block.copied);
        cudaFreeHost(block.data);
      }
    }
  }

  void copy(void* to, const void* from, size_t bytes, cudaStream_t stream) {
    if (bytes <= kPiece) return copy(free_block(bytes), to, from, bytes, stream);
    for (size_t done = 0, piece = 0; done < bytes; done += kPiece, ++piece) {
      if (pieces_.size() < kPieces) pieces_.push_back(new_block(kPiece));
      Block& block = pieces_[piece % kPieces];
      SPANWISE_CUDA(cudaEventSynchronize(block.copied));
      copy(block, static_cast<char*>(to) + done, static_cast<const char*>(from) + done,
           std::min(kPiece, bytes - done), stream);
    }
  }

  size_t bytes() const { return bytes_; }

 private:
  static constexpr size_t kPiece = kMostPinnedPiece, kPieces = 2;
  struct Block {
    void* data;
    size_t bytes;
    cudaEvent_t copied;
  };

  static void copy(Block& block, void* to, const void* from, size_t bytes, cudaStream_t stream) {
    std::memcpy(block.data, from, bytes);
    SPANWISE_CUDA(cudaMemcpyAsync(to, block.data, bytes, cudaMemcpyHostToDevice, stream));
    SPANWISE_CUDA(cudaEventRecord(block.copied, stream));
  }

  /// The smallest one that is large enough and whose copy is done, else a new one.
  Block& free_block(size_t bytes) {
    Block* best = nullptr;
    for (Block& block : blocks_) {
      if (block.bytes < bytes || (best && best->bytes <= block.bytes)) continue;
      if (cudaEventQuery(block.copied) == cudaSuccess) best = &block;
    }
    if (best) return *best;
    size_t size = 4096;
    while (size < bytes) size *= 2;
    return blocks_.emplace_back(new_block(size));
  }

  Block new_block(size_t size) {
    Block block{nullptr, size, nullptr};
    SPANWISE_CUDA(cudaMallocHost(&block.data, size));
    SPANWISE_CUDA(cudaEventCreateWithFlags(&block.copied, cudaEventDisableTiming));
    bytes_ += size;
    return block;
  }

  std::vector<Block> blocks_, pieces_;
  size_t bytes_ = 0;
};

template <class T>
__global__ void fill_kernel(T* to, int64_t numel, T value) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < numel; i += stride) to[i] = value;
}

class CudaMemory final : public Memory {
 public:
  CudaMemory(int gpu, bool poison) : gpu_(gpu), poison_(poison) {
    SPANWISE_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    SPANWISE_CUDA(cudaDeviceGetDefaultMemPool(&pool_, gpu));
    uint64_t keep_all = UINT64_MAX;  // nothing goes back to the GPU until release_cache()
    SPANWISE_CUDA(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep_all));
  }
  ~CudaMemory() override {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }

  Device device() const override { return Device::kCUDA; }
  CUstream_st* stream() const override { return stream_; }

  void* allocate(size_t bytes) override {
    const size_t size = allocation_bytes(Device::kCUDA, bytes);
    void* data = nullptr;
    const cudaError_t error = cudaMallocFromPoolAsync(&data, size, pool_, stream_);
    if (error == cudaErrorMemoryAllocation) fail_out_of_memory(size);
    check(error, "cudaMallocFromPoolAsync");
    {
      const std::lock_guard lock(mutex_);
      stats_.live_bytes += size;
      stats_.peak_bytes = std::max(stats_.peak_bytes, stats_.live_bytes);
    }
    if (poison_) SPANWISE_CUDA(cudaMemsetAsync(data, 0xFF, size, stream_));
    return data;
  }

  void free(void* data, size_t bytes) noexcept override {
    cudaFreeAsync(data, stream_);  // fails only after an error that was reported before
    const std::lock_guard lock(mutex_);
    stats_.live_bytes -= allocation_bytes(Device::kCUDA, bytes);
  }

  MemoryStats stats() const override {
    const std::lock_guard lock(mutex_);
    MemoryStats stats = stats_;
    uint64_t reserved = 0;
    SPANWISE_CUDA(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &reserved));
    stats.reserved_bytes = size_t(reserved);
    return stats;
  }

  size_t pinned_bytes() const {
    const std::lock_guard lock(mutex_);
    return pinned_.bytes();
  }

  void reset_peak() override {
    const std::lock_guard lock(mutex_);
    stats_.peak_bytes = stats_.live_bytes;
  }

  void release_cache() override {
    SPANWISE_CUDA(cudaStreamSynchronize(stream_));
    SPANWISE_CUDA(cudaMemPoolTrimTo(pool_, 0));
  }

  void set_zero(void* to, size_t bytes) override { SPANWISE_CUDA(cudaMemsetAsync(to, 0, bytes, stream_)); }

  void fill(void* to, DType dtype, int64_t numel, double value) override {
    if (numel == 0) return;
    const unsigned blocks = unsigned(std::min<int64_t>(ceil_div(numel, 256), 4096));
    dispatch_cuda(dtype, [&](auto zero) {
      using T = decltype(zero);
      fill_kernel<T><<<blocks, 256, 0, stream_>>>(static_cast<T*>(to), numel, T(float(value)));
    });
    check_launch("fill");
  }

  void copy_rows(void* to, size_t to_stride, const void* from, size_t from_stride, size_t row_bytes,
                 size_t rows) override {
    if (row_bytes == 0 || rows == 0) return;
    if (rows == 1) {
      SPANWISE_CUDA(cudaMemcpyAsync(to, from, row_bytes, cudaMemcpyDeviceToDevice, stream_));
    } else {
      SPANWISE_CUDA(cudaMemcpy2DAsync(to, to_stride, from, from_stride, row_bytes, rows,
                                      cudaMemcpyDeviceToDevice, stream_));
    }
  }

  void from_host(void* to, const void* from, size_t bytes) override {
    if (bytes == 0) return;
    const std::lock_guard lock(mutex_);
    pinned_.copy(to, from, bytes, stream_);
  }

  void to_host(void* to, const void* from, size_t bytes) override {
    {
      const std::lock_guard lock(mutex_);
      ++stats_.host_waits;
    }
    if (bytes > 0) SPANWISE_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_));
    SPANWISE_CUDA(cudaStreamSynchronize(stream_));
  }

 private:
  [[noreturn]] void fail_out_of_memory(size_t size) const {
    size_t available = 0, total = 0;
    cudaMemGetInfo(&available, &total);
    fail_user(
        "GPU {} is out of memory: {} bytes more than the {} of tensors could not be had of its {}. Reduce "
        "train.micro_batch or train.sequence_length, set train.activation_checkpointing: true, or use more "
        "GPUs.",
        gpu_, size, stats_.live_bytes, total);
  }

  int gpu_;
  bool poison_;
  cudaStream_t stream_ = nullptr;
  cudaMemPool_t pool_ = nullptr;
  mutable std::mutex mutex_;
  MemoryStats stats_;
  PinnedBlocks pinned_;
};

}  // namespace

std::shared_ptr<Memory> make_memory(int gpu, bool poison) {
  const int seen = num_gpus();
  if (seen == 0)
    fail_user(
        "No GPU can be used on this machine (nvidia-smi shows none, or its driver is too old); set "
        "device: CPU.");
  if (gpu >= seen)
    fail_user(
        "GPU {} was asked for and this process sees {}; start at most as many ranks on a machine as it "
        "has GPUs.",
        gpu, seen);
  SPANWISE_CUDA(cudaSetDevice(gpu));
  cudaDeviceProp properties;
  SPANWISE_CUDA(cudaGetDeviceProperties(&properties, gpu));
  if (properties.major != 9)
    fail_user(
        "GPU {} is a {} of compute capability {}.{}; this build has kernels for 9.0 (H100, H200). Set "
        "device: CPU.",
        gpu, properties.name, properties.major, properties.minor);
  return std::make_shared<CudaMemory>(gpu, poison);
}

int num_gpus() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

std::string gpu_id(int gpu) {
  cudaDeviceProp properties;
  SPANWISE_CUDA(cudaGetDeviceProperties(&properties, gpu));
  return std::string(properties.uuid.bytes, sizeof(properties.uuid.bytes));
}

std::string gpu_name(int gpu) {
  cudaDeviceProp properties;
  SPANWISE_CUDA(cudaGetDeviceProperties(&properties, gpu));
  return properties.name;
}

size_t pinned_bytes(const Memory& memory) {
  return dynamic_cast<const CudaMemory&>(memory).pinned_bytes();
}

void synchronize(CUstream_st* stream) {
  SPANWISE_CUDA(cudaStreamSynchronize(stream));
}

}  // namespace spanwise::cuda
