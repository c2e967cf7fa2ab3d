// Times collectives between GPUs:
//
//   launcher/local_mpirun.sh 2 build/bin/gpu_comm [--repeat N]
//
// A rank a GPU. For each size the time of one collective behind another (what the transfer takes), its rate
// by the bytes a rank receives, and the host's time to start and join one.

#include <getopt.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "parallel/comm.h"

namespace spanwise {
namespace {

using Clock = std::chrono::steady_clock;

double microseconds_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

struct Times {
  double transfer_us, host_us;  ///< a collective
};

/// The median of five rounds of `repeat` collectives.
template <class Start>
Times time_collective(Context& ctx, Comm& world, int repeat, Start&& start) {
  std::vector<double> transfer, host;
  for (int round = 0; round < 6; ++round) {
    ctx.synchronize();
    world.barrier();
    const auto begin = Clock::now();
    for (int i = 0; i < repeat; ++i) start().wait();
    const double started = microseconds_since(begin);
    ctx.synchronize();
    if (round == 0) continue;  // ranks connect
    transfer.push_back(microseconds_since(begin) / repeat);
    host.push_back(started / repeat);
  }
  std::sort(transfer.begin(), transfer.end());
  std::sort(host.begin(), host.end());
  return {transfer[transfer.size() / 2], host[host.size() / 2]};
}

void print(Comm& world, const char* name, int64_t bytes, int64_t received, const Times& times) {
  if (world.rank() != 0) return;
  fmt::print("{:<15} {:>10} {:>12.1f} {:>10.1f} {:>10.1f}\n", name, bytes, times.transfer_us,
             double(received) / times.transfer_us / 1e3, times.host_us);
  std::fflush(stdout);
}

void run(Context& ctx, Comm& world, int repeat) {
  if (world.rank() == 0)
    fmt::print("{} GPUs\n{:<15} {:>10} {:>12} {:>10} {:>10}\n", world.size(), "collective", "bytes/rank",
               "us", "GB/s", "host us");
  const int ranks = world.size(), next = (world.rank() + 1) % ranks,
            previous = (world.rank() + ranks - 1) % ranks;
  for (const int64_t bytes : {int64_t{4} << 10, int64_t{64} << 10, int64_t{1} << 20, int64_t{4} << 20,
                              int64_t{16} << 20, int64_t{64} << 20}) {
    const int64_t numel = bytes / 4;
    const Tensor mine = Tensor::zeros(ctx, {numel}, DType::kF32),
                 other = Tensor::zeros(ctx, {numel}, DType::kF32),
                 all = Tensor::zeros(ctx, {numel * ranks}, DType::kF32);
    using R = ReceivedBytes;
    print(world, "all_gather", bytes, R::all_gather(ranks, bytes),
          time_collective(ctx, world, repeat, [&] { return world.all_gather("t", mine, all); }));
    print(world, "reduce_scatter", bytes, R::reduce_scatter(ranks, bytes),
          time_collective(ctx, world, repeat, [&] { return world.reduce_scatter("t", all, mine); }));
    print(world, "all_reduce", bytes, R::all_reduce(ranks, bytes),
          time_collective(ctx, world, repeat, [&] { return world.all_reduce("t", mine); }));
    print(world, "exchange", bytes, bytes, time_collective(ctx, world, repeat, [&] {
            return world.exchange("t", {{next, mine}}, {{previous, other}});
          }));
  }
}

}  // namespace
}  // namespace spanwise

int main(int argc, char** argv) {
  using namespace spanwise;
  std::unique_ptr<Comm> world = make_world_comm();
  try {
    int repeat = 20, code = 0;
    const option longs[] = {{"repeat", required_argument, nullptr, 'r'}, {}};
    while ((code = getopt_long(argc, argv, "", longs, nullptr)) != -1) {
      if (code != 'r' || (repeat = std::atoi(optarg)) < 1)
        fail_user("The option is --repeat N, N at least 1.");
    }
    if (world->size() < 2) fail_user("gpu_comm needs 2 ranks or more; start it with mpirun.");
    Context ctx({.device = Device::kCUDA, .gpu = world->local_ranks().rank});
    world->use_gpu(ctx);
    world->connect_gpus();
    run(ctx, *world, repeat);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    world->abort(1);
  }
}
