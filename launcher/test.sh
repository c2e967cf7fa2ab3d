#!/usr/bin/env bash
# Builds everything and runs the test suite: launcher/test.sh [CTEST ARGUMENT …], e.g. -L mpi or -R gated_delta
set -euo pipefail
cd "$(dirname "$0")/.."
launcher/build.sh
# Tests of the GPU are tests/gpu.sh's; these run on the CPU where there is one, too.
export CUDA_VISIBLE_DEVICES=
# Tests use up to 2 threads or ranks each; with -j1 none waits for a core that another one has.
exec ctest --test-dir build --output-on-failure --no-tests=error -LE gpu "$@"
