#!/usr/bin/env bash
# mpirun on this machine alone: works as root, in containers and with fewer cores than ranks.
#   launcher/local_mpirun.sh RANKS PROGRAM [ARG …]
set -euo pipefail
ranks=$1
shift
args=(-n "$ranks" --oversubscribe --bind-to none
      --mca btl self,vader                          # ranks of one machine talk through shared memory only
      --mca btl_vader_single_copy_mechanism none    # containers without ptrace have no other
      --mca orte_base_help_aggregate 0 --mca plm_rsh_agent /bin/false)
if [ "$(id -u)" = 0 ]; then args+=(--allow-run-as-root); fi
# Waiting ranks give their core away when there are fewer cores than ranks.
if [ "$(nproc)" -lt "$ranks" ]; then
  args+=(--mca mpi_yield_when_idle 1)
  export OMP_WAIT_POLICY=passive
fi
# A rank cannot see whether this output is a terminal.
export SPANWISE_TERMINAL_COLUMNS=0
if [ -t 1 ]; then SPANWISE_TERMINAL_COLUMNS=$(tput cols 2>/dev/null || echo 80); fi
exec mpirun "${args[@]}" "$@"
