#!/usr/bin/env bash
# Builds and runs every GPU test; fails where there is no GPU or no nvcc: tests/gpu.sh [CTEST ARGUMENT …]
set -euo pipefail
cd "$(dirname "$0")/.."
if ! nvidia-smi -L | grep -q GPU; then
  echo "spanwise: nvidia-smi shows no GPU on this machine; tests/gpu.sh needs one" >&2
  exit 1
fi
cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DSPANWISE_CUDA=ON -Wno-dev >/dev/null
cmake --build build
exec ctest --test-dir build --output-on-failure --no-tests=error -L gpu "$@"
