#pragma once
// The verbs of the program, one a file in launcher/verbs/.

#include <span>
#include <string>
#include <vector>

#include "launcher/arguments.h"
#include "parallel/comm.h"

namespace spanwise {

struct Verb {
  const char* name;
  const char* summary;
  Usage (*usage)();
  /// Called by every rank with what `usage` allows, --help aside. Returns the exit code; throws Error.
  int (*run)(Comm& world, const Arguments& arguments);
};

/// All verbs, in the order in which help lists them.
std::span<const Verb> verbs();
/// UsageError naming the nearest verb if there is none of that name.
const Verb& find_verb(const std::string& name);

Usage train_usage();
int run_train(Comm& world, const Arguments& arguments);
Usage plan_usage();
int run_plan(Comm& world, const Arguments& arguments);
Usage eval_usage();
int run_eval(Comm& world, const Arguments& arguments);
Usage generate_usage();
int run_generate(Comm& world, const Arguments& arguments);
Usage data_usage();
int run_data(Comm& world, const Arguments& arguments);
Usage checkpoint_usage();
int run_checkpoint(Comm& world, const Arguments& arguments);
Usage config_usage();
int run_config(Comm& world, const Arguments& arguments);
Usage help_usage();
int run_help(Comm& world, const Arguments& arguments);
Usage completion_usage();
int run_completion(Comm& world, const Arguments& arguments);
Usage man_usage();
int run_man(Comm& world, const Arguments& arguments);

}  // namespace spanwise
