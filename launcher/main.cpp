// The `spanwise` program: spanwise VERB …

#include <google/protobuf/stubs/common.h>

#include <chrono>
#include <cstdio>
#include <iostream>
#include <thread>

#include "core/check.h"
#include "launcher/build_info.h"
#include "launcher/verb.h"

namespace spanwise {
namespace {

constexpr Verb kVerbs[] = {
    {"train", "train a model from a config", run_train},
    {"plan", "memory and traffic of a config on any number of ranks, without running it", run_plan},
    {"eval", "held-out perplexity of a trained model", run_eval},
    {"generate", "continue a prompt", run_generate},
    {"data", "prepare or inspect datasets", run_data},
    {"checkpoint", "inspect and verify a checkpoint", run_checkpoint},
    {"config", "print a resolved config, or explain its fields", run_config},
};

std::string program_help() {
  std::string text = fmt::format(
      "Spanwise {}: trains linear-attention, softmax and hybrid language models.\n\nusage: spanwise VERB "
      "…\n\n",
      git_hash().substr(0, 12));
  for (const Verb& verb : kVerbs) text += fmt::format("  {:<12} {}\n", verb.name, verb.summary);
  return text + "\n'spanwise VERB --help' explains a verb.\n";
}

int run(Comm& world, const std::vector<std::string>& args) {
  if (args.empty() || args[0] == "--help" || args[0] == "help" || args[0] == "-h") {
    if (world.rank() == 0) std::cout << program_help();
    return args.empty() ? 2 : 0;
  }
  for (const Verb& verb : kVerbs) {
    if (args[0] == verb.name) return verb.run(world, {args.begin() + 1, args.end()});
  }
  fail_user("There is no verb '{}'.\n{}", args[0], program_help());
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

}  // namespace
}  // namespace spanwise

int main(int argc, char** argv) {
  using namespace spanwise;
  GOOGLE_PROTOBUF_VERIFY_VERSION;
  std::unique_ptr<Comm> world;
  try {
    world = make_world_comm();
    return run(*world, {argv + 1, argv + argc});
  } catch (const std::exception& error) {
    if (!world) world = make_self_comm();
    report(*world, error.what());
    world->abort(1);
  }
}
