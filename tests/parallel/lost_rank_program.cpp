// A job that loses a rank, for lost_rank_mpi_test: lost_rank_program HOW TIMEOUT_SECONDS PID_DIR
// cpu|cuda
// Every rank writes its process id to PID_DIR/<rank>. After three collectives the last rank does HOW (sleep,
// stop, kill, mismatch, forget, throw); the others go on. stop_first: before any of
// them; before_stop, before_other: it never starts MPI.

#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <iostream>

#include "parallel/mesh.h"

namespace spanwise {
namespace {

void lose(const std::string& how, Comm& axis, const Tensor& gradients) {
  if (how == "mismatch") axis.all_reduce("half", gradients.slice_flat(0, {gradients.numel() / 2})).wait();
  if (how == "forget") axis.all_reduce("forgotten", gradients);
  if (how == "forget") axis.barrier("next");
  if (how == "throw") {
    const Ticket ticket = axis.all_reduce("gradients", gradients);
    throw Error("something else went wrong");
  }
  if (how == "sleep") ::sleep(300);
  if (how == "stop") ::raise(SIGSTOP);
  if (how == "kill") ::raise(SIGKILL);
  SPANWISE_FAIL("the rank to be lost by '{}' is still here", how);
}

/// Instead of starting MPI; leaves its process id as run() does.
[[noreturn]] void be_lost_before_start(const std::string& how, const std::string& pid_dir) {
  std::ofstream(fmt::format("{}/{}", pid_dir, std::getenv("OMPI_COMM_WORLD_RANK"))) << ::getpid();
  if (how == "before_stop") ::raise(SIGSTOP);
  if (how == "before_other") ::execlp("sleep", "sleep", "300", nullptr);
  SPANWISE_FAIL("the rank to be lost by '{}' is still here", how);
}

void run(Comm& world, Context& ctx, const std::string& how, double timeout_seconds,
         const std::string& pid_dir) {
  std::ofstream(fmt::format("{}/{}", pid_dir, world.rank())) << ::getpid();
  world.set_timeout(timeout_seconds);
  if (how == "stop_first" && world.rank() == world.size() - 1) ::raise(SIGSTOP);
  world.use_gpu(ctx);
  const Mesh mesh(world, {world.size(), 1, 1});
  mesh.data().connect_gpus();
  const Tensor gradients = Tensor::zeros(ctx, {100000}, DType::kF32);
  for (int step = 0;; ++step) {
    if (step == 3 && world.rank() == world.size() - 1) lose(how, mesh.data(), gradients);
    mesh.data().all_reduce("gradients", gradients).wait();
    ctx.synchronize();
  }
}

}  // namespace
}  // namespace spanwise

int main(int, char** argv) {
  using namespace spanwise;
  const std::string how = argv[1];
  const bool last =
      std::atoi(std::getenv("OMPI_COMM_WORLD_RANK")) == std::atoi(std::getenv("OMPI_COMM_WORLD_SIZE")) - 1;
  if (last && how.starts_with("before")) be_lost_before_start(how, argv[3]);
  std::unique_ptr<Comm> world = make_self_comm();
  try {
    world = make_world_comm({.start_timeout_seconds = how.starts_with("before") ? std::stod(argv[2]) : 600});
    const Device device = std::string(argv[4]) == "cuda" ? Device::kCUDA : Device::kCPU;
    Context ctx({.device = device, .gpu = world->local_ranks().rank});
    run(*world, ctx, argv[1], std::stod(argv[2]), argv[3]);
  } catch (const std::exception& error) {
    std::cerr << "rank " << world->rank() << ": " << error.what() << std::endl;
    world->abort(3);
  }
}
