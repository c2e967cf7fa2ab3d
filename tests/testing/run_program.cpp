#include "tests/testing/run_program.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <set>
#include <stdexcept>
#include <thread>

#include "core/check.h"

namespace spanwise::testing {

namespace {

// Children of this process that are no orphans of the program that ends.
std::set<pid_t> running_programs;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void nap() {
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
}

std::vector<pid_t> children_of(pid_t parent) {
  std::ifstream file(fmt::format("/proc/{0}/task/{0}/children", parent));
  std::vector<pid_t> children;
  for (pid_t child = 0; file >> child;) children.push_back(child);
  return children;
}

std::string name_of_process(pid_t process) {
  std::string name;
  std::ifstream(fmt::format("/proc/{}/comm", process)) >> name;
  return name;
}

std::string content_of(int fd) {
  std::string text(size_t(::lseek(fd, 0, SEEK_END)), '\0');
  const ssize_t count = ::pread(fd, text.data(), text.size(), 0);
  text.resize(size_t(std::max<ssize_t>(count, 0)));
  return text;
}

}  // namespace

std::vector<std::string> spanwise_command(const std::vector<std::string>& arguments,
                                          const ProgramOptions& options) {
  std::vector<std::string> command;
  if (options.ranks > 0)
    command = {SPANWISE_SOURCE_DIR "/launcher/local_mpirun.sh", std::to_string(options.ranks)};
  command.push_back(SPANWISE_PROGRAM);
  command.insert(command.end(), arguments.begin(), arguments.end());
  if (!options.other_rank.empty()) command.insert(command.end(), {":", "-n", "1"});
  for (const std::string& word : options.other_rank)
    command.push_back(word == "{program}" ? SPANWISE_PROGRAM : word);
  return command;
}

RunningProgram::RunningProgram(const std::vector<std::string>& arguments, const ProgramOptions& options)
    : options_(options) {
  std::vector<std::string> command = spanwise_command(arguments, options);
  std::vector<char*> argv;
  for (std::string& word : command) argv.push_back(word.data());
  argv.push_back(nullptr);

  // mpirun puts each rank in a process group of its own; as their reaper this process can find them all.
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  output_ = ::memfd_create("spanwise output", MFD_CLOEXEC);
  start_s_ = now_s();
  pid_ = ::fork();
  if (output_ < 0 || pid_ < 0) throw std::runtime_error("cannot start " + command[0]);
  if (pid_ > 0) {
    running_programs.insert(pid_);
    return;
  }
  // O_APPEND, so that ranks that write at the same time do not write over each other.
  ::fcntl(output_, F_SETFL, O_APPEND);
  ::dup2(output_, STDOUT_FILENO);
  ::dup2(output_, STDERR_FILENO);
  // A busy machine must not add lines.
  ::setenv("SPANWISE_PROGRESS_SECONDS", "1000", 0);
  for (std::string& variable : options_.environment) ::putenv(variable.data());
  const int input = options_.standard_input;
  ::dup2(input < 0 ? ::open("/dev/null", O_RDONLY) : input, STDIN_FILENO);
  if (::chdir(options_.directory.c_str()) == 0) ::execv(argv[0], argv.data());
  ::_exit(127);
}

RunningProgram::~RunningProgram() {
  end_everything();
  ::close(output_);
}

void RunningProgram::kill_one_rank() {
  const std::vector<pid_t> all = ranks();
  if (all.empty()) throw std::runtime_error("there is no rank to kill");
  ::kill(all.back(), SIGKILL);
}

std::vector<pid_t> RunningProgram::ranks() const {
  if (options_.ranks == 0) return {pid_};
  for (const pid_t child : children_of(pid_)) {
    if (name_of_process(child).starts_with("mpirun")) return children_of(child);
  }
  return {};
}

void RunningProgram::signal(int rank, int number) {
  if (rank == kStarter) {
    ::kill(pid_, number);
    return;
  }
  const std::vector<pid_t> all = ranks();
  if (size_t(rank) >= all.size()) throw std::runtime_error("there is no such rank");
  ::kill(all[size_t(rank)], number);
}

void RunningProgram::signal_all(int number) {
  const std::vector<pid_t> all = ranks();
  if (all.empty()) throw std::runtime_error("there is no rank to signal");
  for (const pid_t rank : all) ::kill(rank, number);
}

bool RunningProgram::listens_to(int rank, int number) const {
  const std::vector<pid_t> all = ranks();
  if (size_t(rank) >= all.size()) return false;
  std::ifstream status(fmt::format("/proc/{}/status", all[size_t(rank)]));
  for (std::string word; status >> word;) {
    uint64_t caught = 0;
    if (word == "SigCgt:" && status >> std::hex >> caught) return (caught >> (number - 1)) & 1;
  }
  return false;
}

bool RunningProgram::prints(const std::string& text) {
  for (const double end_s = now_s() + 30; now_s() < end_s; nap()) {
    const bool runs = running();
    if (output().find(text) != std::string::npos) return true;
    if (!runs) return false;
  }
  return false;
}

std::string RunningProgram::output() const {
  return content_of(output_);
}

bool RunningProgram::running() {
  if (!ended_) ended_ = ::waitpid(pid_, &status_, WNOHANG) == pid_;
  return !ended_;
}

ProgramResult RunningProgram::wait() {
  ProgramResult result;
  while (running() && now_s() - start_s_ < options_.timeout_s) nap();
  result.seconds = now_s() - start_s_;
  result.timed_out = running();
  result.left_behind = end_everything();
  result.exit_code = WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_);
  result.output = content_of(output_);
  return result;
}

// Returns how many orphans had to be ended.
int RunningProgram::end_everything() {
  if (running()) ::kill(pid_, SIGKILL);
  while (running()) nap();
  running_programs.erase(pid_);
  std::vector<pid_t> orphans;
  for (const double end_s = now_s() + 1; now_s() < end_s; nap()) {
    orphans = children_of(::getpid());
    std::erase_if(orphans, [](pid_t child) { return running_programs.count(child) > 0; });
    if (orphans.empty()) return 0;
    for (const pid_t orphan : orphans) ::waitpid(orphan, nullptr, WNOHANG);
  }
  for (const pid_t orphan : orphans) {
    ::kill(orphan, SIGKILL);
    ::waitpid(orphan, nullptr, 0);
  }
  return int(orphans.size());
}

ProgramResult run_spanwise(const std::vector<std::string>& arguments, const ProgramOptions& options) {
  return RunningProgram(arguments, options).wait();
}

}  // namespace spanwise::testing
