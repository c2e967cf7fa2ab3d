#pragma once
// Communication between ranks. A Comm is one axis of the mesh seen from one rank: a process alone, or an MPI
// communicator and, for tensors on a GPU, an NCCL one. Every collective (exchange included, with empty lists
// if need be) is called by all ranks of the group in the same order, under the same name; it is started at
// once and joined by waiting on its Ticket, so work can go on in between. Tickets may be waited on in any
// order. At size 1 every call completes immediately (all_gather, reduce_scatter and all_to_all copy). One
// thread makes all calls.
//
// Each call counts its bytes under its name: what this rank receives from others, by the formulas below (n =
// bytes of the smaller operand, W = size; divisions round down). Traffic is a test, not a belief.
//
//   all_reduce      2 (W − 1)/W · n     all_gather    (W − 1) · n     reduce_scatter  (W − 1) · n
//   all_to_all      (W − 1)/W · n       broadcast     n (not on the root; a text: n + 8)
//   exchange        the sum of its receives from other ranks           barrier         0
//
// Reductions add in rank order, whatever the buffer's size: every rank gets the same bits, and reduce_scatter
// followed by all_gather gives the bits of all_reduce. A NaN wins a maximum. On GPUs NCCL chooses the order:
// every rank still gets the same bits, in every run; with more than two ranks they depend on the size and the
// operation, and a NaN may lose a maximum.
//
// On a GPU a collective takes its turn in the compute stream's order, runs on the axis's own stream, and
// wait() makes the compute stream wait, not the host. Host values always travel by MPI.
//
// A collective that does not finish within the timeout, or that MPI or NCCL reports as failed, is an Error
// naming the operation, its name, its axis and its sequence number on this axis; a GPU's comes out of the
// next call on any Comm of the world. After one, every further call on any Comm of the same world is an
// Error: only abort() is left.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "parallel/comm_timeline.h"

namespace spanwise {

enum class Reduce { kSum, kMax };

/// The formulas above, for `ranks` ranks and n bytes.
struct ReceivedBytes {
  static constexpr int64_t all_reduce(int ranks, int64_t n) { return 2 * (ranks - 1) * n / ranks; }
  static constexpr int64_t all_gather(int ranks, int64_t n) { return (ranks - 1) * n; }
  static constexpr int64_t reduce_scatter(int ranks, int64_t n) { return (ranks - 1) * n; }
  static constexpr int64_t all_to_all(int ranks, int64_t n) { return (ranks - 1) * n / ranks; }
};

struct Traffic {
  int64_t calls = 0;
  int64_t received_bytes = 0;
};

/// A started collective. Its tensors are held until it is joined: on a GPU the memory that its stream works
/// on goes back only behind it. Must be waited on before it is destroyed, except during stack unwinding:
/// otherwise the next call on any Comm of its world is an Error.
class Ticket {
 public:
  class Pending;      ///< what a backend keeps (comm_backend.h)
  Ticket() noexcept;  ///< already complete
  explicit Ticket(std::unique_ptr<Pending> pending);
  Ticket(Ticket&&) noexcept;
  Ticket& operator=(Ticket&&) noexcept;
  ~Ticket();
  /// Returns when the results are in place and the operands may be reused (on a GPU: for work on the compute
  /// stream from now on); at once if it has before. Error on a timeout or a lost rank.
  void wait();

 private:
  std::unique_ptr<Pending> pending_;
};

/// One side of a grouped exchange.
struct Message {
  int peer;
  Tensor tensor;  ///< contiguous
};

struct Collective;
class CommFailure;
class GpuBackend;

/// A rank's place among the ranks of its machine.
struct LocalRanks {
  int rank = 0, size = 1;
};

class Comm {
 public:
  virtual ~Comm() = default;
  Comm(const Comm&) = delete;
  Comm& operator=(const Comm&) = delete;
  int rank() const { return rank_; }
  int size() const { return size_; }
  /// "world", "data", "sequence", …: for messages and traffic tables.
  const std::string& axis() const { return axis_; }
  /// The machine of every rank of this axis, as MPI says and not each rank's own environment: equal on all of
  /// them. Machines are numbered in the order of world ranks.
  const std::vector<int>& machines() const { return machines_; }
  LocalRanks local_ranks() const;

  // Tensors are contiguous and of one device, and nobody writes to them (or reads the results) before the
  // ticket's wait. Reductions take F32, F64 and I64, sums on a GPU also BF16; the rest takes any dtype.
  Ticket all_reduce(std::string_view name, const Tensor& tensor, Reduce op = Reduce::kSum);
  /// all [W·n] = the ranks' mine [n], in rank order. `mine` may be this rank's slice of `all`.
  Ticket all_gather(std::string_view name, const Tensor& mine, const Tensor& all);
  /// mine [n] = Σ over ranks of their all's slice of this rank. `mine` may be that slice. `all` may be
  /// overwritten.
  Ticket reduce_scatter(std::string_view name, const Tensor& all, const Tensor& mine);
  /// Slice r of `receive` = slice of this rank in rank r's `send`; both [W·n], in different memory.
  Ticket all_to_all(std::string_view name, const Tensor& send, const Tensor& receive);
  /// Grouped sends and receives, matched per pair of ranks in the order given; matched ones have equal sizes.
  /// Peers may be this rank.
  Ticket exchange(std::string_view name, std::vector<Message> sends, std::vector<Message> receives);
  Ticket broadcast(std::string_view name, const Tensor& tensor, int root = 0);
  void barrier(std::string_view name = "barrier");

  // Small values of the host, joined at once.
  void all_reduce(std::string_view name, std::vector<double>& values, Reduce op = Reduce::kSum);
  /// The text of rank 0 replaces everybody's.
  void broadcast(std::string_view name, std::string& text);
  /// The texts of all ranks, by rank. Counted as an all_reduce of one number a rank, and the all_gather of
  /// texts as long as the longest.
  std::vector<std::string> all_gather(std::string_view name, const std::string& text);

  /// The ranks that give the same color, ordered by this rank's order; collective.
  virtual std::unique_ptr<Comm> split(int color, std::string axis) = 0;
  /// Seconds a wait may take; 0 waits for ever. Default 600. Holds for every Comm of the same world.
  virtual void set_timeout(double seconds) = 0;
  /// Tensors of ctx's GPU may be given from now on, to every Comm of this world that has connected its GPUs.
  /// Not collective. Nothing where ctx is on the CPU. Once in a world's life; ctx must outlive every ticket.
  virtual void use_gpu(Context&) {}
  /// Connects the GPUs of this axis; collective over it, behind use_gpu and before its first tensor on a GPU.
  /// Not left to that: where a rank has no message in an exchange, it would not come. Nothing without a GPU,
  /// at size 1, and a second time.
  virtual void connect_gpus() {}
  /// Records the GPU collectives of every Comm of this world, from here to take_timeline(), which waits for
  /// them. Nothing is recorded, and nothing costs, outside. Error without use_gpu; nothing at size 1.
  virtual void start_timeline() {}
  virtual CommTimeline take_timeline();
  /// Ends every process of the job at once, with this exit code. Only main calls it.
  [[noreturn]] virtual void abort(int exit_code) = 0;

  const std::map<std::string, Traffic, std::less<>>& traffic() const { return traffic_; }
  void reset_traffic() { traffic_.clear(); }

 protected:
  Comm(int rank, int size, std::string axis)
      : machines_(size_t(size), 0), rank_(rank), size_(size), axis_(std::move(axis)) {}
  /// Begins a collective among several ranks; the operands are checked and hold no message to oneself.
  virtual std::unique_ptr<Ticket::Pending> start(Collective collective) = 0;

  std::vector<int> machines_;

 private:
  /// Numbers the collective and starts it; at size 1 it is complete already.
  Ticket launch(Collective collective);
  /// Gives the bytes back.
  int64_t count(std::string_view name, int64_t received_bytes);

  int rank_, size_;
  std::string axis_;
  std::map<std::string, Traffic, std::less<>> traffic_;
  int64_t sequence_number_ = 0;
};

std::unique_ptr<Comm> make_self_comm(std::string axis = "world");

/// Limits, which tests make small.
struct WorldOptions {
  int64_t max_message_bytes = int64_t{1} << 30;         ///< larger transfers go in pieces: MPI counts are int
  int64_t reduction_scratch_bytes = int64_t{16} << 20;  ///< a collective's; larger reductions go in pieces
  double start_timeout_seconds = 600;  ///< of MPI's start; 0: for ever. Of collectives too, until set_timeout
  /// Called on another thread with a sentence that names the ranks that keep MPI from starting, as far as
  /// they can be seen (start_watch.h); ends the process. By default it prints the sentence and exits with 1.
  std::function<void(const std::string&)> end_start;
  /// Instead of NCCL: use_gpu takes it on any device.
  std::function<std::shared_ptr<GpuBackend>(std::shared_ptr<CommFailure>)> gpu_backend;
};

/// The ranks this process was started with: MPI under mpirun or srun, else self. Throws UserError when a
/// Slurm job of several tasks would silently become as many jobs of one rank. At most one in a process's
/// life.
std::unique_ptr<Comm> make_world_comm(WorldOptions options = {});

}  // namespace spanwise
