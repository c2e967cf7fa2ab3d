// The program computes with kernels that its processor is good for.

#include "core/blas_core.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/testing/run_program.h"

namespace spanwise::testing {
namespace {

class ProgramBlasCore : public ::testing::Test {
 protected:
  ProgramBlasCore() {
    if (const char* set = std::getenv("OPENBLAS_CORETYPE")) before_ = set;
    unsetenv("OPENBLAS_CORETYPE");
    setenv("OPENBLAS_VERBOSE", "2", 1);  // it names the core that it takes, whenever it is loaded
  }
  ~ProgramBlasCore() override {
    unsetenv("OPENBLAS_VERBOSE");
    unsetenv("OPENBLAS_CORETYPE");
    if (!before_.empty()) setenv("OPENBLAS_CORETYPE", before_.c_str(), 1);
  }

  static std::vector<std::string> lines_after(const ProgramResult& result, const std::string& words) {
    std::vector<std::string> lines;
    for (size_t at = 0; (at = result.output.find(words, at)) != std::string::npos;) {
      at += words.size();
      lines.push_back(result.output.substr(at, result.output.find('\n', at) - at));
    }
    return lines;
  }
  /// In the order in which they were taken.
  static std::vector<std::string> cores_of(const ProgramResult& result) {
    return lines_after(result, "Core: ");
  }
  static size_t times_said(const ProgramResult& result) {
    return lines_after(result, "OpenBLAS does not know this processor").size();
  }

 private:
  std::string before_;
};

TEST_F(ProgramBlasCore, StartsAgainOnceWhereTheFirstCoreDoesNotFitAndSaysSo) {
  const ProgramResult result = run_spanwise({"train", "--help"});
  const std::vector<std::string> cores = cores_of(result);
  ASSERT_FALSE(cores.empty()) << result.output;
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(core_to_take(cores.back(), cpu_features()), "") << result.output;
  const bool fits = core_to_take(cores[0], cpu_features()).empty();
  EXPECT_EQ(cores.size(), fits ? 1 : 2) << result.output;
  EXPECT_EQ(times_said(result), fits ? 0 : 1) << result.output;
}

TEST_F(ProgramBlasCore, OfSeveralRanksOneSpeaks) {
  const ProgramResult result = run_spanwise({"eval", "--help"}, {.ranks = 2});
  const std::vector<std::string> cores = cores_of(result);
  ASSERT_FALSE(cores.empty()) << result.output;
  const bool fits = core_to_take(cores[0], cpu_features()).empty();
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(times_said(result), fits ? 0 : 1) << result.output;
}

TEST_F(ProgramBlasCore, TheUsersChoiceStands) {
  setenv("OPENBLAS_CORETYPE", "Prescott", 1);
  const ProgramResult result = run_spanwise({"train", "--help"});
  EXPECT_EQ(cores_of(result), std::vector<std::string>{"Prescott"}) << result.output;
  EXPECT_EQ(times_said(result), 0) << result.output;
}

TEST_F(ProgramBlasCore, AVerbThatComputesNothingStartsOnce) {
  EXPECT_EQ(cores_of(run_spanwise({"plan", "--help"})).size(), 1);
}

}  // namespace
}  // namespace spanwise::testing
