#!/usr/bin/env bash
# Builds everything and runs the test suite: launcher/test.sh [CTEST ARGUMENT …], e.g. -L mpi or -R gated_delta
# Where nvcc is, CUDA kernels are compiled as well, as a check; if no GPU is there, in a tree of their own, build-cuda,
# so that build.sh's stays without them.
set -euo pipefail
cd "$(dirname "$0")/.."
build=build
if [ "$(launcher/cuda_choice.sh build 2>/dev/null)" = OFF ] && [ -z "${SPANWISE_CUDA:-}" ]; then
  launcher/install_packages.sh
  build=build-cuda
  echo "spanwise: nvcc is installed: CUDA kernels are compiled, too, in build-cuda; SPANWISE_CUDA=OFF leaves them out."
  cmake --preset cuda -Wno-dev >/dev/null
  cmake --build --preset cuda
else
  launcher/build.sh
fi
# Tests of the GPU are tests/gpu.sh's; these run on the CPU where there is one, too.
export CUDA_VISIBLE_DEVICES=
# Tests use up to 2 threads or ranks each; with -j1 none waits for a core that another one has.
exec ctest --test-dir "$build" --output-on-failure --no-tests=error -LE gpu "$@"
