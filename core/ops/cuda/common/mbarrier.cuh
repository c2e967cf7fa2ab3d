#pragma once
// Shared-memory barriers that count arrivals and bytes in flight (mbarrier), and named barriers between some
// warps of a block. A phase ends when the announced arrivals and bytes have come; wait(parity) returns once
// the phase of that parity is over, so that a fresh barrier lets wait(1) through at once.

#include <cstdint>

#include "core/ops/cuda/common/wgmma_order.cuh"

namespace spanwise::cuda {

// compute-sanitizer's racecheck follows an mbarrier only between threads that themselves arrive and wait, and
// a bulk copy only to later arrivals of the thread that started it. Where one lane arrives for its warp,
// behind __syncwarp or a .sync.aligned instruction, or an arrival announces copies that follow, it sees races
// that there are none. A build for it (CMake: SPANWISE_RACECHECK) lets every lane arrive, and once more after
// copies.
#ifdef SPANWISE_RACECHECK
constexpr bool kRacecheck = true;
#else
constexpr bool kRacecheck = false;
#endif

/// What a warp counts in MBarrier::init where `if (arrives_for_warp(lane)) barrier.arrive();` is how it
/// arrives.
constexpr int kWarpArrivals = kRacecheck ? 32 : 1;
__device__ __forceinline__ bool arrives_for_warp(int lane) {
  return kRacecheck || lane == 0;
}

/// Lies in shared memory, 8-byte aligned.
struct MBarrier {
  uint64_t state;

  __device__ __forceinline__ uint32_t address() const {
    return static_cast<uint32_t>(__cvta_generic_to_shared(&state));
  }
  /// One thread, then fence_barrier_init and a barrier of the block.
  __device__ __forceinline__ void init(int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address()), "r"(arrivals) : "memory");
  }
  __device__ __forceinline__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address()) : "memory");
  }
  /// Arrives and lets the phase end only after `bytes` more have been copied.
  __device__ __forceinline__ void arrive_expecting(int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address()), "r"(bytes)
                 : "memory");
  }
  /// The same around the copies that one thread starts, one arrival in all.
  __device__ __forceinline__ void expect(int bytes) {
    if (!kRacecheck) return arrive_expecting(bytes);
    asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(address()), "r"(bytes)
                 : "memory");
  }
  __device__ __forceinline__ void copies_started() {
    if (kRacecheck) arrive();
  }
  __device__ __forceinline__ void wait(int parity) const {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}" ::"r"(address()),
        "r"(parity)
        : "memory");
  }
};

__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/// Position in a ring of stages; parity is what the ring's current round waits for.
template <int kStages>
struct RingPosition {
  int stage = 0, parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

/// Waits at named barrier `id` (1 to 15) for `threads` threads, whole warps, that sync or arrive.
__device__ __forceinline__ void named_barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace spanwise::cuda
