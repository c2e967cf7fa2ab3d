#pragma once
// OpenBLAS chooses its kernels ("core") by a table of processors when it is loaded. One that is newer than
// the table gets the kernels of 2004, a quarter of its speed, without a word: Debian 12's OpenBLAS 0.3.21 on
// an Emerald Rapids Xeon. Only OPENBLAS_CORETYPE, read at that moment, chooses another core, so a program
// that wants one starts itself again.

#include <string>
#include <string_view>

namespace spanwise {

/// What the processor, and the system's registers, can do; all false where it is no x86-64.
struct CpuFeatures {
  bool avx = false, avx2_fma = false, avx512 = false;  ///< avx512: F, CD, BW, DQ, VL
  bool amd = false;
};
CpuFeatures cpu_features();

/// The core whose kernels are in use, as OpenBLAS names it.
std::string blas_core();

/// The core to use instead of `chosen`; empty where that has the instructions of the processor, or is none
/// that is known to lack them. AMD's Zen kernels count as enough: 512 bits gain it little.
std::string core_to_take(std::string_view chosen, const CpuFeatures& features);

/// The first thing in main: no thread, no MPI, no output before it. Where another core is to be taken and the
/// user has not set OPENBLAS_CORETYPE, starts the program again, once, with it set. Returns what there is to
/// say about it, one sentence, or nothing. argv ends with a null pointer.
std::string take_fitting_blas_core(char** argv);

}  // namespace spanwise
