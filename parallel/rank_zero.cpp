#include "parallel/rank_zero.h"

#include <spdlog/spdlog.h>

#include <chrono>
#include <future>
#include <vector>

namespace spanwise {

namespace {

constexpr std::chrono::milliseconds kSignOfLife{100};

/// Until rank 0's work is done; `pending` is its result there, nothing elsewhere.
void exchange_signs_of_life(Comm& world, std::string_view name, const std::future<std::string>* pending,
                            StopRequest* stop) {
  for (bool done = false; !done;) {
    std::vector<double> signs(2, 0.0);
    if (pending && pending->wait_for(kSignOfLife) == std::future_status::ready) signs[0] = 1;
    if (stop) signs[1] = stop->vote();
    world.all_reduce(name, signs);
    if (stop) stop->agree(signs[1]);
    done = signs[0] > 0;
  }
}

}  // namespace

std::string run_on_rank_zero(Comm& world, std::string_view name, const std::function<std::string()>& work,
                             StopRequest* stop) {
  if (world.size() == 1 && !stop) return work();
  std::string text;
  if (world.rank() == 0) {
    std::future<std::string> pending = std::async(std::launch::async, work);
    try {
      exchange_signs_of_life(world, name, &pending, stop);
    } catch (const std::exception& error) {
      // The work may take long to end, and mpirun ends this process in a second.
      spdlog::error("{}", error.what());
      throw;
    }
    text = pending.get();
  } else {
    exchange_signs_of_life(world, name, nullptr, stop);
  }
  world.broadcast(name, text);
  return text;
}

}  // namespace spanwise
