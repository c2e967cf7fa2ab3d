#!/usr/bin/env bash
# What is installed is enough for another project: tests/install_test.sh BUILD_TREE. Installs a tree, builds the example
# against it alone, and lets it train; then configures the same example with the sources added instead.
set -euo pipefail
source_dir=$(realpath "$(dirname "$0")/..")
tree=$(realpath "$1")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cmake --install "$tree" --prefix "$dir/prefix" >/dev/null
"$dir/prefix/bin/spanwise" help >/dev/null
cp -r "$source_dir/examples" "$dir/examples"
cmake -S "$dir/examples" -B "$dir/found" -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="$dir/prefix" -Wno-dev >/dev/null
cmake --build "$dir/found"
"$dir/found/train_example"
# As a path, not as the end of one: sources in /spanwise are not the installed include/spanwise.
if grep -rqE "(^|[^[:alnum:]_}./-])$source_dir([^[:alnum:]_-]|\$)" "$dir/prefix/lib/cmake" "$dir/prefix/include"; then
  echo "what is installed names the source tree"
  exit 1
fi
cmake -S "$dir/examples" -B "$dir/added" -DSPANWISE_SOURCE="$source_dir" -DSPANWISE_CUDA=OFF -Wno-dev >/dev/null
cmake --build "$dir/added" --target help >"$dir/targets"
grep -q train_example "$dir/targets"
