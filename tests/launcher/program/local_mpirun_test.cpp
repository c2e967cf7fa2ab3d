// launcher/local_mpirun.sh, with a shell in place of a program.

#include <gtest/gtest.h>
#include <sched.h>

#include <cstdio>
#include <string>

namespace spanwise::testing {
namespace {

std::string output_of(const std::string& command) {
  std::string output;
  FILE* pipe = ::popen(command.c_str(), "r");
  char block[256];
  while (const size_t count = std::fread(block, 1, sizeof block, pipe)) output.append(block, count);
  ::pclose(pipe);
  return output;
}

/// What a rank sees of the setting that waiting ranks give their core away.
std::string yields(const std::string& environment, int ranks) {
  return output_of(environment + " " SPANWISE_SOURCE_DIR "/launcher/local_mpirun.sh " + std::to_string(ranks) +
                   " sh -c 'echo yields=$OMPI_MCA_mpi_yield_when_idle'");
}

TEST(LocalMpirun, CountsCoresWhateverOpenMpIsToldToUse) {
  cpu_set_t set;
  ASSERT_EQ(::sched_getaffinity(0, sizeof set, &set), 0);
  const int cores = CPU_COUNT(&set);
  EXPECT_NE(yields("OMP_NUM_THREADS=1024", cores + 1).find("yields=1"), std::string::npos);
  EXPECT_NE(yields("OMP_THREAD_LIMIT=1 OMP_NUM_THREADS=1", cores).find("yields=\n"), std::string::npos);
}

}  // namespace
}  // namespace spanwise::testing
