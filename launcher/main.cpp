// The `spanwise` program: spanwise VERB …

#include <google/protobuf/stubs/common.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>
#include <new>
#include <optional>
#include <string_view>
#include <thread>

#include "core/blas_core.h"
#include "core/check.h"
#include "launcher/program_text.h"
#include "launcher/rank_agreement.h"
#include "launcher/verb.h"
#include "parallel/stop_request.h"

namespace spanwise {
namespace {

int run(Comm& world, const std::string& program, const std::vector<std::string>& args) {
  const auto print = [&](const std::string& text) {
    if (world.rank() == 0) std::cout << text << std::flush;
  };
  agree_on_call(world, args);
  if (args.empty()) {
    print(program_help(help_columns()));
    return kExitUsage;
  }
  if (args[0] == "--version" || args[0] == "-V") {
    print(version_text());
    return 0;
  }
  const Verb& verb = find_verb(args[0] == "--help" || args[0] == "-h" ? "help" : args[0]);
  const Usage usage = verb.usage();
  const bool nothing_given = args.size() == 1 && usage.min_positional > 0;
  std::optional<Arguments> arguments;
  if (!nothing_given) arguments.emplace(usage, std::vector(args.begin() + 1, args.end()), program);
  if (nothing_given || arguments->has("help")) {
    print(usage.text(help_columns()));
    return nothing_given ? kExitUsage : 0;
  }
  return verb.run(world, *arguments);
}

// The others have no products to speed up, and their output is read by programs.
bool computes(std::string_view verb) {
  return verb == "train" || verb == "eval" || verb == "generate";
}

// Every rank usually fails alike: rank 0 speaks first and ends the job; another rank is heard only if it
// fails alone.
void report(const Comm& world, const std::string& message) {
  if (world.rank() > 0) std::this_thread::sleep_for(std::chrono::milliseconds(500));
  const std::string who = world.rank() > 0 ? fmt::format("rank {}: ", world.rank()) : "";
  std::cout.flush();
  // One write: ranks and mpirun share the terminal.
  std::cerr << fmt::format("spanwise: error: {}{}{}", who, message, message.ends_with('\n') ? "" : "\n")
            << std::flush;
}

std::string message_of(const std::exception& error) {
  if (!dynamic_cast<const std::bad_alloc*>(&error)) return error.what();
  return "This machine has less memory than asked for; `spanwise plan` says what a config needs.";
}

}  // namespace
}  // namespace spanwise

int main(int argc, char** argv) {
  using namespace spanwise;
  GOOGLE_PROTOBUF_VERIFY_VERSION;
  std::optional<StopSignals> signals;
  std::string about_blas;
  if (argc > 1 && computes(argv[1])) about_blas = take_fitting_blas_core(argv);
  std::unique_ptr<Comm> world;
  try {
    // Before MPI starts, so that no rank is lost to an early one.
    const bool trains = argc > 1 && std::string_view(argv[1]) == "train";
    if (trains) signals.emplace();
    if (trains) ::signal(SIGPIPE, SIG_IGN);  // `train | head` goes on
    world = make_world_comm();
    if (world->rank() == 0 && !about_blas.empty()) std::cerr << fmt::format("spanwise: {}\n", about_blas);
    return run(*world, argc > 0 ? argv[0] : "spanwise", {argv + std::min(argc, 1), argv + argc});
  } catch (const std::exception& error) {
    if (!world) world = make_self_comm();
    // mpirun ends the ranks that have nothing to add: now if it has asked for that, or before they speak.
    if (world->rank() > 0 && mpirun_ends_this_process(MpirunSignal::kAtOnce)) end_by_signal(SIGTERM);
    signals.reset();
    report(*world, message_of(error));
    world->abort(dynamic_cast<const UsageError*>(&error) ? kExitUsage : kExitError);
  }
}
