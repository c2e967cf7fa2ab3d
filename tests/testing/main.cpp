#include <gtest/gtest.h>

#include <cstdio>

#include "core/blas_core.h"

int main(int argc, char** argv) {
  const std::string said = spanwise::take_fitting_blas_core(argv);
  if (!said.empty()) std::fprintf(stderr, "%s\n", said.c_str());
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
