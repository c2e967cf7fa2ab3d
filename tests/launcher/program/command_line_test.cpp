// What the program says about itself, and its exit codes.

#include <array>
#include <cstdio>
#include <sstream>

#include "core/file_io.h"
#include "tests/launcher/program/tiny_run.h"

namespace spanwise::testing {
namespace {

ProgramResult run(const std::vector<std::string>& arguments, int ranks = 0) {
  return run_spanwise(arguments, {.ranks = ranks});
}

TEST(CommandLine, ExitCodesTellAWrongCommandLineFromAnError) {
  EXPECT_EQ(run({"--help"}).exit_code, 0);
  EXPECT_EQ(run({}).exit_code, 2);
  EXPECT_EQ(run({"eval"}).exit_code, 2);
  for (const int ranks : {0, 2}) {
    const ProgramResult slip = run({"evla", "run"}, ranks);
    EXPECT_EQ(slip.exit_code, 2) << slip.output;
    EXPECT_NE(slip.output.find("did you mean 'eval'?"), std::string::npos) << slip.output;
    const ProgramResult error = run({"eval", "there/is/no/such/run"}, ranks);
    EXPECT_EQ(error.exit_code, 1) << error.output;
  }
}

TEST(CommandLine, AnErrorIsOneSentence) {
  const std::string output = run({"eval", "x", "--sequnces", "3"}).output;
  EXPECT_EQ(output.find('\n'), output.size() - 1) << output;
}

TEST(CommandLine, VersionIsOneLineAndHelpOfAVerbIsItsOwn) {
  const std::string version = run({"--version"}).output;
  EXPECT_EQ(version.substr(0, 9), "spanwise ");
  EXPECT_EQ(version.find('\n'), version.size() - 1) << version;
  EXPECT_EQ(run({"help", "data"}).output, run({"data", "--help"}).output);
  EXPECT_EQ(run({"help"}).output, run({"--help"}).output);
}

TEST(CommandLine, HelpListsEachExitCodeOnce) {
  const std::string help = run({"--help"}).output;
  std::istringstream lines(help.substr(help.find("exit codes:\n") + 12));
  std::vector<std::string> codes;
  for (std::string line, code; std::getline(lines, line) && !line.empty();)
    if (line.find_first_not_of(' ') == 2) codes.push_back(line.substr(2, line.find(' ', 2) - 2));
  EXPECT_EQ(codes, (std::vector<std::string>{"0", "1", "2", "75"})) << help;
}

std::string shell(const std::string& command) {
  std::string output;
  FILE* pipe = ::popen(("bash -c '" + command + "' 2>&1").c_str(), "r");
  std::array<char, 4096> buffer{};
  for (size_t n = 0; (n = ::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
    output.append(buffer.data(), n);
  ::pclose(pipe);
  return output;
}

TEST(CommandLine, BashCompletesVerbsActionsOptionsAndFields) {
  const TempDir dir;
  write_file(dir / "completion", run({"completion", "bash"}).output);
  const auto completed = [&](const std::string& words, int at) {
    return shell("source " + (dir / "completion").string() + "; COMP_WORDS=(" + words +
                 "); COMP_CWORD=" + std::to_string(at) + "; _spanwise; echo ${COMPREPLY[@]}");
  };
  EXPECT_EQ(completed("spanwise ev", 1), "eval\n");
  EXPECT_EQ(completed("spanwise data pre", 2), "prepare\n");
  EXPECT_EQ(completed("spanwise help gen", 2), "generate\n");
  EXPECT_EQ(completed("build/bin/spanwise eval run --seq", 3), "--sequences\n");
  EXPECT_EQ(completed("spanwise train x --set optimizer.lear", 4), "optimizer.learning_rate=\n");
}

}  // namespace
}  // namespace spanwise::testing
