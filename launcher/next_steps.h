#pragma once
// What a training tells at its end: commands that go on from it and work as they are printed.

#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "launcher/config/config.h"

namespace spanwise {

struct NextStepsOptions {
  std::string program;     ///< as the user called it
  int ranks = 1;           ///< of the training
  int64_t last_step = 0;   ///< done by it
  std::string prompt;      ///< for generate; empty: none
  bool evaluates = false;  ///< whether there is held-out data
};

/// Commands for a POSIX shell, words quoted where they need it. Training goes on at the rate that the
/// schedule ended with: without a word on optimizer.schedule_steps the schedule would be stretched and the
/// decayed rate rise again. Where that rate is 0, no such command is given. Commands for several ranks begin
/// as this training was started: with launcher/local_mpirun.sh, which says so in SPANWISE_LAUNCHER, srun or
/// mpirun.
std::vector<std::string> next_steps(const RunConfig& config, const NextStepsOptions& options);

/// A prompt of the run's own: train.sample_prompt, else the first words of its held-out or training text;
/// empty if these have none that print, or can no longer be read.
std::string prompt_of(const RunConfig& config, const Tokenizer& tokenizer);

}  // namespace spanwise
