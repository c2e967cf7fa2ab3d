#include "core/blas_core.h"

#include <cblas.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "core/check.h"

namespace spanwise {

namespace {

constexpr char kCore[] = "OPENBLAS_CORETYPE";
// Set by the first start for the second: the core that it left.
constexpr char kLeftCore[] = "SPANWISE_LEFT_BLAS_CORE";

enum Level { kSse, kAvx, kAvx2, kAvx512 };

Level level_of(const CpuFeatures& features) {
  if (features.avx512 && !features.amd) return kAvx512;
  if (features.avx2_fma) return kAvx2;
  return features.avx ? kAvx : kSse;
}

/// A core that is not named here is newer than these.
Level level_of(std::string_view core) {
  constexpr std::string_view kSseCores[] = {"Unknown",  "Generic", "Katmai",    "Coppermine",   "Northwood",
                                            "Prescott", "Banias",  "Core2",     "Penryn",       "Nehalem",
                                            "Atom",     "Athlon",  "Opteron",   "Opteron_SSE3", "Barcelona",
                                            "Bobcat",   "Nano",    "Dunnington"};
  constexpr std::string_view kAvxCores[] = {"Sandybridge", "Bulldozer", "Piledriver", "Steamroller"};
  constexpr std::string_view kAvx2Cores[] = {"Haswell", "Zen", "Excavator"};
  const auto is_in = [core](const auto& list) {
    return std::find(std::begin(list), std::end(list), core) != std::end(list);
  };
  if (is_in(kSseCores)) return kSse;
  if (is_in(kAvxCores)) return kAvx;
  return is_in(kAvx2Cores) ? kAvx2 : kAvx512;
}

}  // namespace

CpuFeatures cpu_features() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return {.avx = __builtin_cpu_supports("avx") != 0,
          .avx2_fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"),
          .avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
                    __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl"),
          .amd = __builtin_cpu_is("amd") != 0};
#else
  return {};
#endif
}

std::string blas_core() {
  return openblas_get_corename();
}

std::string core_to_take(std::string_view chosen, const CpuFeatures& features) {
  const Level can = level_of(features);
  if (level_of(chosen) >= can) return "";
  if (can == kAvx512) return "SkylakeX";
  if (can == kAvx2) return features.amd ? "Zen" : "Haswell";
  return "Sandybridge";
}

std::string take_fitting_blas_core(char** argv) {
  const std::string core = blas_core(), wanted = core_to_take(core, cpu_features());
  if (const char* left = std::getenv(kLeftCore)) {
    const std::string before = left;
    unsetenv(kLeftCore);  // of this start alone, not of programs that it starts
    if (wanted.empty()) {
      return fmt::format(
          "OpenBLAS does not know this processor and took its {} kernels; started again with {} ({} "
          "chooses).",
          before, core, kCore);
    }
    return fmt::format(
        "OpenBLAS computes with its {} kernels, far below what this processor can do, and has none of {}; "
        "install one that is built for many cores (DYNAMIC_ARCH).",
        core, wanted);
  }
  if (wanted.empty() || std::getenv(kCore)) return "";
  setenv(kCore, wanted.c_str(), 1);
  setenv(kLeftCore, core.c_str(), 1);
  execv("/proc/self/exe", argv);
  const std::string reason = std::strerror(errno);
  unsetenv(kCore);
  unsetenv(kLeftCore);
  return fmt::format(
      "OpenBLAS does not know this processor and took its {} kernels, far below what it can do, and the "
      "program "
      "could not start itself again ({}); set {}={}.",
      core, reason, kCore, wanted);
}

}  // namespace spanwise
