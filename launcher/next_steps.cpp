#include "launcher/next_steps.h"

#include <algorithm>
#include <cstdlib>

#include "core/optim/schedule.h"
#include "data/incremental_decoder.h"
#include "data/indexed_dataset.h"
#include "launcher/config/derived.h"
#include "launcher/objects.h"
#include "launcher/words.h"

namespace spanwise {

namespace {

// What a command for as many ranks begins with.
std::string launcher_of(int ranks) {
  if (ranks == 1) return "";
  if (const char* launcher = std::getenv("SPANWISE_LAUNCHER"))
    return fmt::format("{} {} ", shell_word(launcher), ranks);
  return fmt::format("{} -n {} ", std::getenv("SLURM_STEP_ID") ? "srun" : "mpirun", ranks);
}

std::string train_settings(const RunConfig& config, int64_t last_step) {
  std::string settings = fmt::format("--set train.steps={}", 2 * last_step);
  const auto& optimizer = config.optimizer();
  const bool stretches =
      optimizer.schedule() != config::OptimizerConfig::CONSTANT && optimizer.schedule_steps() == 0;
  if (stretches) settings += fmt::format(" --set optimizer.schedule_steps={}", schedule_steps(config));
  return settings;
}

// The first words of a text, at most 40 bytes of its first line with any.
std::string first_words(std::string text) {
  constexpr size_t kLongest = 40;
  text.erase(0, std::min(text.find_first_not_of(" \t\r\n"), text.size()));
  text = text.substr(0, text.find_first_of("\r\n"));
  const bool cut = text.size() > kLongest;
  if (cut) text.resize(kLongest);
  // A word that the cut or the last token ends in the middle is left out.
  const size_t space = text.find_last_of(' ');
  if (space != text.npos && space > 0) text.resize(space);
  if (cut && space == text.npos) return "";
  const auto prints = [](char c) { return static_cast<unsigned char>(c) >= 0x20 && c != 0x7F; };
  return std::all_of(text.begin(), text.end(), prints) ? text : "";
}

}  // namespace

std::vector<std::string> next_steps(const RunConfig& config, const NextStepsOptions& options) {
  const std::string program = shell_word(options.program), dir = shell_word(config.run().dir());
  const std::string launched = launcher_of(options.ranks) + program;
  std::vector<std::string> commands;
  const std::string prompt =
      options.prompt.empty() ? "" : fmt::format(" --prompt {}", shell_word(options.prompt));
  commands.push_back(fmt::format("{} generate {}{} --tokens 100", program, dir, prompt));
  if (options.evaluates) commands.push_back(fmt::format("{} eval {}", launched, dir));
  if (learning_rate(schedule_of(config), std::max<int64_t>(options.last_step, 1)) > 0)
    commands.push_back(
        fmt::format("{} train {} {}", launched, dir, train_settings(config, options.last_step)));
  return commands;
}

namespace {

std::string first_words_of_data(const RunConfig& config, const Tokenizer& tokenizer) {
  const std::string& held_out = config.data().validation();
  const IndexedDataset dataset(held_out.empty() ? config.data().train(0).path() : held_out);
  std::vector<int32_t> ids(size_t(std::min<int64_t>(dataset.num_tokens(), 64)));
  dataset.read(0, int64_t(ids.size()), ids.data());
  IncrementalDecoder decoder(tokenizer);
  std::string text;
  for (const int32_t id : ids) {
    if (id == tokenizer.end_of_document() && !text.empty()) break;
    text += decoder.push(id);
  }
  return first_words(text);
}

}  // namespace

std::string prompt_of(const RunConfig& config, const Tokenizer& tokenizer) {
  if (!config.train().sample_prompt().empty()) return config.train().sample_prompt();
  try {
    return first_words_of_data(config, tokenizer);
  } catch (const std::exception&) {  // moved meanwhile
    return "";
  }
}

}  // namespace spanwise
