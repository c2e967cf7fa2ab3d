#!/usr/bin/env bash
# Every kernel under compute-sanitizer's memcheck, racecheck and synccheck; one line a tool and test program, and the
# exit status says whether all were clean:
#   tests/gpu_sanitize.sh [BIN] [RACECHECK_BIN] [LOGS]
# BIN (build/bin): the test programs. RACECHECK_BIN (build-racecheck/bin): the same of a build with
# -DSPANWISE_RACECHECK=ON, whose barriers racecheck can follow (core/ops/cuda/common/mbarrier.cuh says why). LOGS
# (build/sanitize): where reports go. JOBS (12) processes run side by side, spread over CUDA_VISIBLE_DEVICES (all GPUs).
# Needs a GPU, and compute-sanitizer and cuobjdump of the CUDA toolkit.
#
# Before anything else planted faults must be found: an element written behind a tensor of the stream-ordered pool, a
# race in shared memory, a warp's barrier whose mask leaves out a lane that comes there. After it, the kernels that ran
# are held against those that the program `spanwise` contains. Kernels of libraries (cuBLASLt) are not judged by
# memcheck and synccheck.
set -uo pipefail
cd "$(dirname "$0")/.."
bin=$(realpath "${1:-build/bin}")
race_bin=$(realpath "${2:-build-racecheck/bin}")
logs=$(realpath -m "${3:-build/sanitize}")
jobs=${JOBS:-12}
export PATH="$PATH:/usr/local/cuda/bin"
for tool in compute-sanitizer cuobjdump; do
  if ! command -v $tool >/dev/null; then
    echo "spanwise: tests/gpu_sanitize.sh needs $tool, which comes with the CUDA toolkit" >&2
    exit 1
  fi
done
rm -rf "$logs"
mkdir -p "$logs"
gpus=${CUDA_VISIBLE_DEVICES:-$(nvidia-smi --query-gpu=index --format=csv,noheader | paste -sd,)}
export logs bin race_bin gpus
export SPANWISE_TEST_UNDER_CHECKER=1 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive

# check TOOL NAME PROGRAM [ARGUMENT …]: one process; its report in $logs/TOOL.NAME.log, its seconds and status last.
# SLOT, the number of the place among JOBS that it runs at, picks its GPU.
check() {
  local ids
  IFS=, read -ra ids <<<"$gpus"
  export CUDA_VISIBLE_DEVICES=${ids[${SLOT:-0} % ${#ids[@]}]}
  local tool=$1 name=$2 program=$bin/$3 log=$logs/$1.$2.log begin=$SECONDS
  shift 3
  [ "$tool" != racecheck ] || program=$race_bin/$(basename "$program")
  local options=(--tool "$tool" --print-limit 20)
  # racecheck fails in cuBLASLt's kernels ("failed to handle a hardware exception") where it is told to leave them out,
  # and names races in them: its reports are judged here.
  [ "$tool" = racecheck ] || options+=(--error-exitcode 1 --kernel-name kns=spanwise)
  [ "$tool" != memcheck ] || options+=(--leak-check no)
  timeout 280 compute-sanitizer "${options[@]}" "$program" "$@" >"$log" 2>&1
  local status=$?
  [ "$tool" != racecheck ] || ! grep -qE '(Race|hazard) reported.*spanwise' "$log" || status=1
  echo "status $status after $((SECONDS - begin)) s" >>"$log"
}
export -f check
failed() { ! tail -n 1 "$1" | grep -q '^status 0 '; }

# Planted faults.
bad=0
check memcheck planted_none planted_faults none
check memcheck planted_global planted_faults global
check racecheck planted_shared planted_faults shared
check synccheck planted_barrier planted_faults barrier
if failed "$logs/memcheck.planted_none.log"; then
  cat "$logs/memcheck.planted_none.log"
  echo "compute-sanitizer does not work here"
  exit 1
fi
for planted in memcheck.planted_global racecheck.planted_shared synccheck.planted_barrier; do
  if ! failed "$logs/$planted.log"; then
    echo "$planted: the planted fault was not found"
    bad=1
  fi
done

# Programs whose tests take long are split: a process a test. Timings, runs that only count, lost ranks, and tests that
# launch what others do (op_memory, attention_ranks; some that are long) are left out.
skipped='*TakesTime*:*ManyRuns*:*SteadyState*:*SpansEqualTheWholeSequence*:*LongDocumentsScannedInParts*'
skipped+=':*LargeWeightGradients*:*BiasGradientsOfManyRows*'
programs=$(cd "$bin" && ls | grep '_cuda_test$' | grep -vE '^(lost_rank|op_memory|attention_ranks)')
for tool in racecheck memcheck synccheck; do
  for program in $programs; do
    case $program in
      softmax_attention_* | gated_delta_* | scalar_decay_* | kernel_instances_*)
        "$bin/$program" --gtest_list_tests --gtest_filter="-$skipped" |
          awk -v tool=$tool -v program="$program" '
            /^[^ ].*\.$/ { suite = $1 }
            /^ / { print tool, program "." $1, program, suite $1 }'
        ;;
      *) echo $tool "$program" "$program" "-$skipped" ;;
    esac
  done
done >"$logs/jobs"
export SPANWISE_TEST_KERNELS=$logs/kernels
xargs -P "$jobs" -L 1 --process-slot-var=SLOT bash -c 'check "$0" "$1" "$2" "--gtest_filter=$3"' <"$logs/jobs"

for tool in memcheck racecheck synccheck; do
  for program in $programs; do
    reports=() seconds=0
    for log in "$logs/$tool.$program".log "$logs/$tool.$program".*.log; do
      [ -e "$log" ] || continue
      last=$(tail -n 1 "$log")
      seconds=$((seconds + $(sed -E 's/.* after ([0-9]+) s$/\1/' <<<"$last")))
      ! failed "$log" || reports+=("$log")
    done
    echo "$tool $program: $([ ${#reports[@]} = 0 ] && echo clean || echo "${#reports[@]} with reports") ($seconds s)"
    for log in "${reports[@]:0:3}"; do
      bad=1
      echo "  $(basename "$log"): $(tail -n 1 "$log")"
      grep -E '^=========' "$log" | grep -v 'COMPUTE-SANITIZER' | head -n 12 | cut -c 1-400
    done
  done
done

# Coverage.
cuobjdump -res-usage "$bin/spanwise" 2>/dev/null | grep -oP 'Function \K[^:]+' | sort -u >"$logs/all_kernels"
sort -u "$logs/kernels" | comm -13 - "$logs/all_kernels" >"$logs/not_launched"
echo "$(wc -l <"$logs/all_kernels") kernels, $(wc -l <"$logs/not_launched") of them not launched"
if [ -s "$logs/not_launched" ]; then
  c++filt <"$logs/not_launched"
  bad=1
fi
exit $bad
