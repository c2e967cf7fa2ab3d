#pragma once
// What Comm (comm.cpp: checks, byte counts, the work of one rank) and its backends (comm_mpi.cpp) share. Not
// for callers of Comm.

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
struct Block {
  char* data = nullptr;
  int64_t numel = 0;
  DType dtype = DType::kU8;

  Block() = default;
  Block(void* memory, int64_t count, DType type)
      : data(static_cast<char*>(memory)), numel(count), dtype(type) {}
  /// Of a contiguous tensor.
  explicit Block(const Tensor& tensor) : Block(tensor.raw(), tensor.numel(), tensor.dtype()) {}

  int64_t bytes() const { return numel * int64_t(size_of(dtype)); }
  Block range(int64_t begin, int64_t end) const {
    return {data + begin * int64_t(size_of(dtype)), end - begin, dtype};
  }
  /// Slice `index` of `num` equal ones.
  Block slice(int index, int num) const { return range(numel / num * index, numel / num * (index + 1)); }
};

/// to = from, unless they are the same memory.
void copy(const Block& from, const Block& to);

/// out[i] = the sum or maximum over r of inputs[r][i], taken in the order of r. `out` may be one of the
/// inputs. F32, F64, I64.
void reduce_in_order(const std::vector<Block>& inputs, Reduce op, const Block& out);

/// One call. Operands by operation:
///   all_reduce, broadcast: output.  all_gather: input [n], output [W·n].  reduce_scatter: input [W·n],
///   output [n].  all_to_all: input, output [W·n].  exchange: sends, receives.
struct Collective {
  enum class Operation { kAllReduce, kAllGather, kReduceScatter, kAllToAll, kExchange, kBroadcast, kBarrier };
  struct Peer {
    int rank;
    Block block;
  };

  Operation operation;
  std::string name;
  Block input, output;
  Reduce reduce = Reduce::kSum;
  int root = 0;
  std::vector<Peer> sends, receives;
  std::vector<Tensor> held;  ///< keeps the blocks' memory alive
  int64_t sequence_number = 0;
};

/// "all_reduce 'gradients' #17 on axis data".
std::string describe(const Collective& collective, const std::string& axis);

}  // namespace spanwise
