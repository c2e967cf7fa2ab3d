#!/usr/bin/env bash
# Builds, and runs every GPU test that this machine's GPUs are enough for: tests/gpu.sh [CTEST ARGUMENT …]
# With one GPU the tests of two ranks are left out, each by name in the last lines. The exit status is 0 only if all
# others passed; it fails where there is no GPU or no nvcc.
set -euo pipefail
cd "$(dirname "$0")/.."
gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)
if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
  visible=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c . || true)
  gpus=$((visible < gpus ? visible : gpus))
fi
if [ "$gpus" = 0 ]; then
  echo "spanwise: nvidia-smi shows no GPU that may be used on this machine; tests/gpu.sh needs one" >&2
  exit 1
fi
cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DSPANWISE_CUDA=ON -Wno-dev >/dev/null
cmake --build build
leave_out=()
if [ "$gpus" = 1 ]; then leave_out=(-LE two_gpus); fi
status=0
ctest --test-dir build --output-on-failure --no-tests=error -L '^gpu$' "${leave_out[@]}" "$@" || status=$?
if [ "$gpus" = 1 ]; then
  echo "Left out, because they take two GPUs and this machine has one:"
  ctest --test-dir build -N -L two_gpus "$@" | sed -n 's/^ *Test *#[0-9]*: /  /p'
  echo "Two ranks on one GPU are right, but slow: launcher/local_mpirun.sh 2 tests/share_gpu.sh build/bin/NAME_mpi_test"
fi
exit $status
