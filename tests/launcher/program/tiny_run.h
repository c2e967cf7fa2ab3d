#pragma once
// Runs of a tiny hybrid over a tiny text, for tests of the program from outside. A directory holds
//   text.txt, train.{bin,idx}, valid.{bin,idx}    documents of 8 to 160 bytes: rows of 32 tokens hold several
//   config.textproto                              4 layers "LLLN", F64, 8 steps of 4 sequences
// and each run goes to a directory of its own beside them.

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "tests/testing/run_program.h"
#include "tests/testing/temp_dir.h"

namespace spanwise::testing {

/// What the tests compare of a line of metrics.jsonl. Step 0, which has no loss, is left out.
struct StepRecord {
  int64_t step = 0;
  double loss = 0, grad_norm = 0, lr = 0;
  bool operator==(const StepRecord&) const = default;
};
std::vector<StepRecord> read_metrics(const std::filesystem::path& run);

/// Path to content of every file below a directory.
std::map<std::string, std::string> files_below(const std::filesystem::path& directory);

/// A text of simple sentences; `seed` chooses which.
std::string tiny_text(int num_sentences, uint64_t seed);

class TinyRunTest : public ::testing::Test {
 protected:
  /// Prepares text and data, with `data prepare`.
  void SetUp() override;

  /// Runs a verb in the directory. `settings` become --set options.
  ProgramResult spanwise(std::vector<std::string> arguments, const std::vector<std::string>& settings = {},
                         int ranks = 0) const;
  /// Trains into the directory `run` and expects success.
  ProgramResult train(const std::string& run, std::vector<std::string> settings = {}, int ranks = 0) const;
  /// The newest checkpoint of a run.
  std::filesystem::path checkpoint(const std::string& run) const;
  std::filesystem::path path(const std::string& name) const { return dir_ / name; }

 private:
  TempDir dir_;
};

/// A linear mixer and how to get it at this size.
struct MixerCase {
  const char* name;
  std::vector<std::string> settings;
};
const std::vector<MixerCase>& mixer_cases();

}  // namespace spanwise::testing
