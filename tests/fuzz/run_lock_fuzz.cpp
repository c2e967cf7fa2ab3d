// A lock that another process holds, and whatever it says of itself.

#include <sys/file.h>

#include "launcher/run_lock.h"
#include "tests/fuzz/fuzz_file.h"

using namespace spanwise;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::filesystem::path& path = fuzz::file("run.lock", {data, size});
  // Held by another open file, which is what counts, for as long as this process lives.
  static const bool held = ::flock(::open(path.c_str(), O_RDWR | O_CLOEXEC), LOCK_EX) == 0;
  SPANWISE_CHECK(held, "cannot lock {}", path.string());
  bool refused = false;
  fuzz::expect_answer(fuzz::directory().string(), [&] {
    try {
      const DirectoryLock lock(fuzz::directory(), "run.dir");
    } catch (const UserError&) {
      refused = true;
      throw;
    }
  });
  SPANWISE_CHECK(refused, "{} was locked twice", path.string());
  return 0;
}
