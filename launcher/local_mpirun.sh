#!/usr/bin/env bash
# mpirun on this machine alone: works as root, in containers and with fewer cores than ranks.
#   launcher/local_mpirun.sh RANKS PROGRAM [ARG …]
# SIGTERM, SIGINT (^C) and SIGHUP reach every rank as SIGUSR2, which asks `spanwise train` to save and end; a
# second one ends it at once. The exit code is mpirun's.
set -euo pipefail
ranks=$1
shift
args=(-n "$ranks" --oversubscribe --bind-to none
      --mca btl self,vader                          # ranks of one machine talk through shared memory only
      --mca btl_vader_single_copy_mechanism none    # containers without ptrace have no other
      --mca orte_base_help_aggregate 0 --mca plm_rsh_agent /bin/false)
if [ "$(id -u)" = 0 ]; then args+=(--allow-run-as-root); fi
# Waiting ranks give their core away when there are fewer cores than ranks. nproc would obey OpenMP's settings.
if [ "$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)" -lt "$ranks" ]; then
  args+=(--mca mpi_yield_when_idle 1)
  export OMP_WAIT_POLICY=passive
fi
export SPANWISE_LAUNCHER=$0  # for commands that the program prints
# A rank cannot see whether this output is a terminal.
export SPANWISE_TERMINAL_COLUMNS=0
if [ -t 1 ]; then
  SPANWISE_TERMINAL_COLUMNS=$(tput cols 2>/dev/null || echo 80)
  { SPANWISE_TERMINAL=$(tty <&3); } 3>&1  # whose width may change; output 1 of $( ) is no terminal
  export SPANWISE_TERMINAL
fi

# Open MPI answers a SIGTERM or SIGINT of its own with SIGKILL to every rank a second later, but forwards
# SIGUSR2. So mpirun runs in a process group of its own, which ^C does not reach, and ends if this script dies.
set -m
# Who reads the output may go (| head): mpirun would give up after a few failed writes.
relays=()
if [ -p /dev/stdout ]; then
  exec > >(trap '' INT TERM HUP; exec tee -p /dev/null)
  relays+=($!)
fi
if [ -p /dev/stderr ]; then
  exec 2> >(trap '' INT TERM HUP; exec tee -p /dev/null >&2)
  relays+=($!)
fi
# Before mpirun starts: a signal must not end this script alone.
mpirun=
pending=
forward() {
  interrupted=yes
  pending=$1
  [ -z "$mpirun" ] || kill -s "$1" "$mpirun" 2>/dev/null || true
}
trap 'forward USR2' TERM INT HUP USR2
trap 'forward USR1' USR1
trap 'forward CONT' CONT
trap 'forward TSTP; kill -s STOP $$' TSTP
setpriv --pdeathsig TERM mpirun "${args[@]}" "$@" &
mpirun=$!

# Where a rank dies while it starts, Open MPI 4.1 over PMIx 4.2 can lock itself up at its own end: every rank is
# gone and mpirun waits for ever. Ends it then.
has_ranks() {
  local list ids child stat
  for list in "/proc/$mpirun/task/"*/children; do
    ids=()
    { read -ra ids < "$list"; } 2>/dev/null || true  # no newline ends it
    for child in "${ids[@]}"; do
      { read -r stat < "/proc/$child/stat"; } 2>/dev/null || continue
      case ${stat##*) } in Z*) ;; *) return 0 ;; esac
    done
  done
  return 1
}
watch_for_a_stuck_end() {
  trap - TERM INT HUP USR1 USR2 CONT TSTP
  local never seen='' without=0
  exec {never}<> <(:)  # nothing comes from it: a pause that needs no process, which would keep the output open
  while kill -0 "$mpirun" 2>/dev/null; do
    if has_ranks; then
      seen=yes without=0
    elif [ -n "$seen" ] && [ $((without += 1)) -gt "${SPANWISE_MPIRUN_END_SECONDS:-10}" ]; then
      echo "local_mpirun.sh: mpirun did not end although its ranks have; it is ended" >&2
      kill -s KILL "$mpirun"
      return
    fi
    read -rt 1 -u "$never" || true
  done
}
watch_for_a_stuck_end &
watch=$!
disown "$watch"
if [ -n "$pending" ]; then forward "$pending"; fi  # it came before this script knew whom to tell
interrupted=yes
while [ "$interrupted" = yes ]; do
  interrupted=no
  code=0
  wait -f "$mpirun" || code=$?
done
kill "$watch" 2>/dev/null || true
exec >&- 2>&-
for relay in "${relays[@]}"; do wait -f "$relay" || true; done
exit "$code"
