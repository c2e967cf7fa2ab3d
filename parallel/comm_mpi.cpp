#include <mpi.h>

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "parallel/comm.h"

namespace spanwise {

namespace {

// Counts are int in MPI 3: larger buffers go in pieces.
constexpr int64_t kMaxCount = int64_t{1} << 28;

void check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  SPANWISE_FAIL("{} failed: {}", call, std::string(text, size_t(length)));
}

MPI_Datatype mpi_type(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return MPI_DOUBLE;
    case DType::kF32:
      return MPI_FLOAT;
    case DType::kI64:
      return MPI_INT64_T;
    default:
      SPANWISE_FAIL("{} cannot be reduced over MPI (F64, F32, I64 can)", name_of(dtype));
  }
}

MPI_Op mpi_op(Reduce op) {
  return op == Reduce::kSum ? MPI_SUM : MPI_MAX;
}

/// MPI_COMM_WORLD, with MPI started and ended by this object.
class MpiComm final : public Comm {
 public:
  MpiComm() {
    int provided = 0;
    check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
  }
  ~MpiComm() override { MPI_Finalize(); }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void all_reduce(const Tensor& tensor, Reduce op) override {
    SPANWISE_CHECK(tensor.contiguous(), "all_reduce needs a contiguous tensor");
    const size_t elem = size_of(tensor.dtype());
    for (int64_t begin = 0; begin < tensor.numel(); begin += kMaxCount) {
      const int64_t count = std::min(kMaxCount, tensor.numel() - begin);
      check(MPI_Allreduce(MPI_IN_PLACE, static_cast<char*>(tensor.raw()) + size_t(begin) * elem, int(count),
                          mpi_type(tensor.dtype()), mpi_op(op), MPI_COMM_WORLD),
            "MPI_Allreduce");
    }
  }

  void all_reduce(std::vector<double>& values, Reduce op) override {
    check(MPI_Allreduce(MPI_IN_PLACE, values.data(), int(values.size()), MPI_DOUBLE, mpi_op(op),
                        MPI_COMM_WORLD),
          "MPI_Allreduce");
  }

  void broadcast(std::string& bytes) override {
    int64_t size = int64_t(bytes.size());
    check(MPI_Bcast(&size, 1, MPI_INT64_T, 0, MPI_COMM_WORLD), "MPI_Bcast");
    SPANWISE_CHECK(size <= std::numeric_limits<int>::max(), "a broadcast of {} bytes is too large", size);
    bytes.resize(size_t(size));
    check(MPI_Bcast(bytes.data(), int(size), MPI_BYTE, 0, MPI_COMM_WORLD), "MPI_Bcast");
  }

  void barrier() override { check(MPI_Barrier(MPI_COMM_WORLD), "MPI_Barrier"); }

  void abort(int exit_code) override {
    MPI_Abort(MPI_COMM_WORLD, exit_code);
    std::_Exit(exit_code);
  }

 private:
  int rank_ = 0, size_ = 1;
};

bool started_by_a_launcher() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}) {
    if (std::getenv(name)) return true;
  }
  return false;
}

}  // namespace

std::unique_ptr<Comm> make_world_comm() {
  std::unique_ptr<Comm> comm = started_by_a_launcher() ? std::make_unique<MpiComm>() : make_self_comm();
  // Under srun without PMIx every task would train alone and overwrite the others' files.
  const char* tasks = std::getenv("SLURM_NTASKS");
  const char* step = std::getenv("SLURM_STEP_ID");
  if (comm->size() == 1 && tasks && step && std::atoi(tasks) > 1) {
    fail_user("Slurm started {} tasks but MPI sees one rank; start with 'srun --mpi=pmix' or with mpirun.",
              tasks);
  }
  return comm;
}

}  // namespace spanwise
