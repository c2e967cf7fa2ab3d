#!/usr/bin/env bash
# launcher/cuda_choice.sh on machines with and without nvcc and GPU: stand-ins for both come first in PATH.
set -euo pipefail
choice=$(realpath "$(dirname "$0")/../../launcher/cuda_choice.sh")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir -p "$dir/with_nvcc" "$dir/gpu" "$dir/no_gpu" "$dir/tree" "$dir/home/bin"
stand_in() { printf '#!/bin/sh\n%s\n' "$2" >"$1"; chmod +x "$1"; }
stand_in "$dir/with_nvcc/nvcc" 'exit 0'
cp "$dir/with_nvcc/nvcc" "$dir/home/bin/nvcc"
stand_in "$dir/gpu/nvidia-smi" 'echo "GPU 0: NVIDIA H200 (UUID: GPU-0)"'
stand_in "$dir/no_gpu/nvidia-smi" 'echo "NVIDIA-SMI has failed" && exit 9'
# Of the machine's own PATH only what has neither.
plain=$dir/plain
mkdir "$plain"
for tool in bash grep env; do ln -s "$(command -v $tool)" "$plain/$tool"; done

status=0
expect() { # WORD SAID PATH [VARIABLE=VALUE …]
  local word=$1 said=$2 path=$3
  shift 3
  local got
  got=$(env -i PATH="$path" CUDA_HOME="$dir/none" "$@" bash "$choice" "$dir/tree" 2>"$dir/said")
  local words
  words=$(grep -c 'no GPU' "$dir/said" || true)
  if [ "$got" != "$word" ] || [ "$words" != "$said" ]; then
    echo "FAILED: $got, said $words times, instead of $word, $said: PATH=$path $*"
    status=1
  fi
}
expect OFF 1 "$dir/with_nvcc:$dir/no_gpu:$plain"
expect AUTO 0 "$dir/with_nvcc:$dir/gpu:$plain"
expect AUTO 0 "$dir/no_gpu:$plain"
expect OFF 1 "$dir/no_gpu:$plain" CUDACXX=/opt/nvcc
expect OFF 1 "$dir/no_gpu:$plain" CUDA_HOME="$dir/home"
expect ON 0 "$dir/with_nvcc:$dir/no_gpu:$plain" SPANWISE_CUDA=ON
expect OFF 0 "$dir/with_nvcc:$dir/gpu:$plain" SPANWISE_CUDA=OFF
echo 'SPANWISE_CUDA:STRING=AUTO' >"$dir/tree/CMakeCache.txt"
expect OFF 1 "$dir/with_nvcc:$dir/no_gpu:$plain"
echo 'SPANWISE_CUDA:STRING=ON' >"$dir/tree/CMakeCache.txt"
expect ON 0 "$dir/with_nvcc:$dir/no_gpu:$plain"
exit $status
