// The commands that a training prints, run as they are printed.

#include <array>
#include <cstdio>
#include <sstream>

#include "core/check.h"
#include "core/file_io.h"
#include "tests/launcher/program/tiny_run.h"

namespace spanwise::testing {
namespace {

class ProgramNextSteps : public TinyRunTest {
 protected:
  /// Runs a command line in the directory of the test; empty if it failed.
  std::string shell(const std::string& command) {
    std::string output;
    FILE* pipe = ::popen(("cd '" + path("").string() + "' && " + command + " 2>&1").c_str(), "r");
    std::array<char, 4096> buffer{};
    for (size_t n = 0; (n = ::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
      output.append(buffer.data(), n);
    const int status = ::pclose(pipe);
    EXPECT_EQ(status, 0) << command << "\n" << output;
    return output;
  }
};

std::vector<std::string> printed_commands(const std::string& output) {
  std::vector<std::string> commands;
  std::istringstream lines(output.substr(output.find("Next:\n") + 6));
  for (std::string line; std::getline(lines, line);) commands.push_back(line);
  return commands;
}

TEST_F(ProgramNextSteps, WorkAsTheyArePrintedAndKeepTheDecayedRate) {
  const ProgramResult trained =
      train("a run's", {"optimizer.schedule_steps=", "optimizer.warmup_steps=0", "train.steps=6"});
  const auto commands = printed_commands(trained.output);
  ASSERT_EQ(commands.size(), 3) << trained.output;
  EXPECT_NE(commands[0].find("--prompt"), std::string::npos) << commands[0];
  for (const std::string& command : commands) shell(command);
  const auto records = read_metrics(path("a run's"));
  ASSERT_EQ(records.size(), 12);
  for (size_t i = 6; i < 12; ++i) EXPECT_EQ(records[i].lr, records[5].lr);
}

TEST_F(ProgramNextSteps, EvalAsJsonIsOneObjectAndSaysTheSameAsText) {
  train("run");
  const ProgramResult text = spanwise({"eval", "run"}), json = spanwise({"eval", "run", "--json"});
  EXPECT_EQ(json.exit_code, 0);
  EXPECT_EQ(json.output.find('\n'), json.output.size() - 1) << json.output;
  for (const char* key : {"checkpoint", "data", "sequences", "tokens", "loss", "perplexity"})
    EXPECT_NE(json.output.find(fmt::format("\"{}\":", key)), std::string::npos) << json.output;
  const auto number = [](const std::string& output, const std::string& label) {
    return std::stod(output.substr(output.find(label) + label.size()));
  };
  EXPECT_NEAR(number(json.output, "\"loss\":"), number(text.output, "loss "), 1e-6);
  EXPECT_EQ(number(json.output, "\"tokens\":"), number(text.output, "tokens "));
}

TEST_F(ProgramNextSteps, EvalSaysWhereTrainingEvaluatesLess) {
  const ProgramResult trained = train("run", {"train.eval_sequences=3"});
  const ProgramResult all = spanwise({"eval", "run"});
  EXPECT_NE(all.output.find("Training evaluates 3 of these"), std::string::npos) << all.output;
  const ProgramResult same = spanwise({"eval", "run", "--sequences", "3"});
  EXPECT_EQ(same.output.find("Training evaluates"), std::string::npos) << same.output;
  // The figure that training printed, to its two digits.
  const auto figure = [](const std::string& text, const std::string& label) {
    return std::stod(text.substr(text.rfind(label) + label.size()));
  };
  EXPECT_NEAR(figure(same.output, "perplexity"), figure(trained.output, "at step 0,"), 0.0051);
}

TEST_F(ProgramNextSteps, AConfigIsPrintedWithWhatItsZerosStandFor) {
  const ProgramResult printed = spanwise({"config", "print", "config.textproto"}, {}, 2);
  EXPECT_NE(printed.output.find("#   parallel.data: 2\n"), std::string::npos) << printed.output;
  EXPECT_NE(printed.output.find("#   model.vocab_size: 257\n"), std::string::npos) << printed.output;
}

}  // namespace
}  // namespace spanwise::testing
