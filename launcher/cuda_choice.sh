#!/usr/bin/env bash
# Prints what SPANWISE_CUDA is for a build on this machine, one word, and says on standard error why it is OFF:
#   $SPANWISE_CUDA   if that is set
#   ON               if the build tree named by $1 was configured so
#   OFF              where nvcc is and no GPU: compiling the kernels takes minutes, and nothing here runs them
#   AUTO             else: the kernels where nvcc is found
set -euo pipefail
if [ -n "${SPANWISE_CUDA:-}" ]; then
  echo "$SPANWISE_CUDA"
  exit
fi
if grep -qs '^SPANWISE_CUDA:STRING=ON$' "${1:-build}/CMakeCache.txt"; then
  echo ON
  exit
fi
has_nvcc() { command -v nvcc >/dev/null || [ -n "${CUDACXX:-}" ] || [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; }
has_gpu() {
  if command -v nvidia-smi >/dev/null; then
    [[ "$(nvidia-smi -L 2>/dev/null || true)" == GPU* ]]
  else
    compgen -G '/dev/nvidia[0-9]*' >/dev/null
  fi
}
if has_nvcc && ! has_gpu; then
  echo "spanwise: nvcc is installed and no GPU is to be seen: building without CUDA kernels, for the CPU." \
       "SPANWISE_CUDA=ON launcher/build.sh compiles them." >&2
  echo OFF
else
  echo AUTO
fi
