#pragma once
// The verbs of the program, one a file in launcher/verbs/.

#include <optional>
#include <string>
#include <vector>

#include "launcher/arguments.h"
#include "parallel/comm.h"

namespace spanwise {

struct Verb {
  const char* name;
  const char* summary;
  /// Returns the exit code; throws Error.
  int (*run)(Comm& world, const std::vector<std::string>& args);
};

/// Prints how a verb is used, once, if --help asks for it or nothing was given; the exit code then.
std::optional<int> print_usage(const Usage& usage, const Arguments& arguments, const Comm& world);

int run_train(Comm& world, const std::vector<std::string>& args);
int run_plan(Comm& world, const std::vector<std::string>& args);
int run_eval(Comm& world, const std::vector<std::string>& args);
int run_generate(Comm& world, const std::vector<std::string>& args);
int run_data(Comm& world, const std::vector<std::string>& args);
int run_checkpoint(Comm& world, const std::vector<std::string>& args);
int run_config(Comm& world, const std::vector<std::string>& args);

}  // namespace spanwise
