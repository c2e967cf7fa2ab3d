#pragma once
// What Comm (comm.cpp: checks, byte counts, the work of one rank) and its backends (comm_mpi.cpp,
// comm_nccl.cpp, comm_self.cpp, comm_dry.cpp) share. Not for callers of Comm.

#include <atomic>
#include <functional>
#include <mutex>

#include "parallel/comm.h"

namespace spanwise {

/// Destroyed without wait() only while an error unwinds the stack, or by mistake: then MPI may still write to
/// the operands.
class Ticket::Pending {
 public:
  virtual ~Pending() = default;
  virtual void wait() = 0;
};

/// Consecutive elements.
struct CommBlock {
  char* data = nullptr;
  int64_t numel = 0;
  DType dtype = DType::kU8;

  CommBlock() = default;
  CommBlock(void* memory, int64_t count, DType type)
      : data(static_cast<char*>(memory)), numel(count), dtype(type) {}
  /// Of a contiguous tensor.
  explicit CommBlock(const Tensor& tensor) : CommBlock(tensor.raw(), tensor.numel(), tensor.dtype()) {}

  int64_t bytes() const { return numel * int64_t(size_of(dtype)); }
  CommBlock range(int64_t begin, int64_t end) const {
    return {data + begin * int64_t(size_of(dtype)), end - begin, dtype};
  }
  /// Slice `index` of `num` equal ones.
  CommBlock slice(int index, int num) const { return range(numel / num * index, numel / num * (index + 1)); }
};

/// out[i] = the sum or maximum over r of inputs[r][i], taken in the order of r. `out` may be one of the
/// inputs. F32, F64, I64.
void reduce_in_order(const std::vector<CommBlock>& inputs, Reduce op, const CommBlock& out);

/// One call. Messages to oneself are delivered already, and all_to_all's own slice; on the CPU all_gather's,
/// too. Operands by operation:
///   all_reduce, broadcast: output.  all_gather: input [n], output [W·n].  reduce_scatter: input [W·n],
///   output [n].  all_to_all: input, output [W·n].  exchange: sends, receives.
struct Collective {
  enum class Operation { kAllReduce, kAllGather, kReduceScatter, kAllToAll, kExchange, kBroadcast, kBarrier };
  struct Peer {
    int rank;
    CommBlock block;
  };

  Operation operation;
  std::string name;
  Device device = Device::kCPU;  ///< where the blocks lie
  int64_t received_bytes = 0;    ///< as counted
  CommBlock input, output;
  Reduce reduce = Reduce::kSum;
  int root = 0;
  std::vector<Peer> sends, receives;
  std::vector<Tensor> held;  ///< keeps the blocks' memory alive
  int64_t sequence_number = 0;
};

const char* name_of(Collective::Operation operation);
/// "all_reduce 'gradients' #17 on axis data".
std::string describe(const Collective& collective, const std::string& axis);

/// Why nothing more can be communicated in a world, from the first failure on. Of all its threads.
class CommFailure {
 public:
  /// `explained`: whether another rank has said why the job ends.
  explicit CommFailure(std::function<bool()> explained) : explained_(std::move(explained)) {}
  bool happened() const { return happened_.load(std::memory_order_acquire); }
  /// The first failure stays. `terminated`: SIGTERM was the reason.
  void set(std::string text, bool terminated = false);
  /// Nothing before a failure; then an Error ("… cannot start: …"), or SIGTERM's own silent end where another
  /// rank has explained it. On the thread of the calls.
  void check(const Collective& collective, const std::string& axis, const char* verb) const;

 private:
  std::function<bool()> explained_;
  std::atomic<bool> happened_{false};
  mutable std::mutex mutex_;
  std::string text_;
  bool terminated_ = false;
};

/// One rank's view of an axis.
struct AxisRanks {
  std::string name;
  int rank = 0;
  std::vector<int> world_ranks;  ///< of all its ranks
  /// Replaces the bytes by those of the axis's rank 0; collective, on the host.
  std::function<void(const CommBlock&)> broadcast;

  int size() const { return int(world_ranks.size()); }
  /// "world rank 2, 3": all but this one.
  std::string others() const;
};

/// Collectives of GPU tensors on one axis.
class GpuAxis {
 public:
  virtual ~GpuAxis() = default;
  /// Collective, once, before any start.
  virtual void connect() = 0;
  virtual std::unique_ptr<Ticket::Pending> start(Collective collective) = 0;
};

/// The GPU side of a world.
class GpuBackend {
 public:
  virtual ~GpuBackend() = default;
  /// Not collective; GpuAxis::connect is.
  virtual std::unique_ptr<GpuAxis> make_axis(AxisRanks ranks) = 0;
  virtual void set_timeout(double seconds) = 0;
  virtual void start_timeline() = 0;
  virtual CommTimeline take_timeline() = 0;
};

/// NCCL on ctx's GPU and stream (comm_nccl.cpp; in builds with CUDA). A failure on either side ends both.
std::shared_ptr<GpuBackend> make_nccl_backend(Context& ctx, std::shared_ptr<CommFailure> failure);

}  // namespace spanwise
