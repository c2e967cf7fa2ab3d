#pragma once
// Communication between ranks. A Comm is a group of ranks: one process alone (self) or an MPI communicator;
// every collective is called by all ranks of the group in the same order. At size 1 every call is a no-op.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace spanwise {

enum class Reduce { kSum, kMax };

class Comm {
 public:
  virtual ~Comm() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// tensor (contiguous F32, F64 or I64) becomes the sum or maximum over ranks, bitwise equal on every rank.
  virtual void all_reduce(const Tensor& tensor, Reduce op) = 0;
  virtual void all_reduce(std::vector<double>& values, Reduce op) = 0;
  /// `bytes` of rank 0 replace everybody's.
  virtual void broadcast(std::string& bytes) = 0;
  virtual void barrier() = 0;
  /// Ends every process of the job at once, with this exit code. Only main calls it.
  [[noreturn]] virtual void abort(int exit_code) = 0;
};

/// One process alone.
std::unique_ptr<Comm> make_self_comm();

/// The ranks this process was started with: MPI under mpirun or srun, else self. Throws UserError when a
/// Slurm job of several tasks would silently become as many jobs of one rank.
std::unique_ptr<Comm> make_world_comm();

/// What the launcher of the job (mpirun, srun) says through the environment, before MPI is started.
struct LaunchInfo {
  int rank = 0, size = 1, local_size = 1;
};
LaunchInfo read_launch_info();

}  // namespace spanwise
