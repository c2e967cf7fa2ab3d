#!/usr/bin/env bash
# Installs missing packages, configures the default preset and builds: launcher/build.sh [TARGET …]
# CUDA kernels are compiled where nvcc and a GPU are, or with SPANWISE_CUDA=ON (cuda_choice.sh).
set -euo pipefail
cd "$(dirname "$0")/.."
launcher/install_packages.sh
cuda=$(launcher/cuda_choice.sh build)
cmake --preset default -DSPANWISE_CUDA="$cuda" -Wno-dev >/dev/null
cmake --build --preset default ${1:+--target "$@"}
