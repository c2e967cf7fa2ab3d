// launcher/local_mpirun.sh, with a shell in place of a program.

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
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
  return output_of(environment + " " SPANWISE_SOURCE_DIR "/launcher/local_mpirun.sh " +
                   std::to_string(ranks) + " sh -c 'echo yields=$OMPI_MCA_mpi_yield_when_idle'");
}

TEST(LocalMpirun, CountsCoresWhateverOpenMpIsToldToUse) {
  cpu_set_t set;
  ASSERT_EQ(::sched_getaffinity(0, sizeof set, &set), 0);
  const int cores = CPU_COUNT(&set);
  EXPECT_NE(yields("OMP_NUM_THREADS=1024", cores + 1).find("yields=1"), std::string::npos);
  EXPECT_NE(yields("OMP_THREAD_LIMIT=1 OMP_NUM_THREADS=1", cores).find("yields=\n"), std::string::npos);
}

TEST(LocalMpirun, EndsAnMpirunThatOutlivesItsRanks) {
  // An mpirun whose rank ends and that stays, as the real one may where a rank dies early.
  const std::filesystem::path fake =
      std::filesystem::path(::testing::TempDir()) / ("stuck_mpirun_" + std::to_string(::getpid()));
  std::filesystem::create_directories(fake);
  std::ofstream(fake / "mpirun") << "#!/bin/sh\nsleep 1.5 & wait\nexec sleep 60\n";
  std::filesystem::permissions(fake / "mpirun", std::filesystem::perms::owner_all);
  const std::string output = output_of("PATH=" + fake.string() +
                                       ":$PATH SPANWISE_MPIRUN_END_SECONDS=1 timeout 30 " SPANWISE_SOURCE_DIR
                                       "/launcher/local_mpirun.sh 1 true 2>&1; echo code=$?");
  std::filesystem::remove_all(fake);
  EXPECT_NE(output.find("mpirun did not end although its ranks have"), std::string::npos) << output;
  EXPECT_NE(output.find("code=137"), std::string::npos) << output;
}

}  // namespace
}  // namespace spanwise::testing
