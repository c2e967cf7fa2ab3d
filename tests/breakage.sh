#!/usr/bin/env bash
# Breaks runs in every way that the tests of one part do not reach, and prints what came of it:
#   tests/breakage.sh [PART [COUNT]] …
# Parts: kills (kill -9), damage (of files), enospc (and EIO, at every call), signals, ranks (that differ), fuzz
# (readers, under sanitizers). Without arguments all of them; COUNT makes a part smaller. Takes build/bin/spanwise,
# or $SPANWISE_PROGRAM; fuzz builds its own with clang, into build-fuzz/. Exit code 0 if every row passed.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
for tool in python3 cc mpirun; do
  command -v "$tool" >/dev/null || { echo "breakage: $tool is missing; launcher/install_packages.sh brings it" >&2; exit 1; }
done
PYTHONDONTWRITEBYTECODE=1 exec python3 "$root/tests/breakage/main.py" "$@"
