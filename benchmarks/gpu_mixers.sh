#!/usr/bin/env bash
# Spanwise's kernels beside their peers, measured in turn on the same GPU: benchmarks/gpu_mixers.sh [--shape B,T,H,D]…
# PYTHON (default python3) must have torch and flash-linear-attention; GPU_MIXERS names the program.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
ours=$("${GPU_MIXERS:-$here/../build/bin/gpu_mixers}" "$@")
peers=$("${PYTHON:-python3}" "$here/peers/fla_mixers.py" "$@" | grep -v '^#')
echo "| kernel | B×T×H×D | forward ms | peer | peer / ours | forward + backward ms | peer | peer / ours |"
echo "|---|---|---|---|---|---|---|---|"
awk 'NR == FNR { if ($3 + 0 > 0) { forward[$1 $2] = $3; both[$1 $2] = $4 } next }
     { key = $1 $2; known = key in forward
       printf "| %s | %s | %s | %s | %s | %s | %s | %s |\n", $1, $2,
         $3, known ? forward[key] : "-", known ? sprintf("%.2f", forward[key] / $3) : "-",
         $4, known ? both[key] : "-", known ? sprintf("%.2f", both[key] / $4) : "-" }' \
  <(echo "$peers") <(echo "$ours")
