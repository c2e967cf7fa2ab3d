#!/usr/bin/env bash
# For machines with fewer GPUs than ranks: every rank uses GPU 0. NCCL refuses two ranks on one GPU of a machine, so it
# is told that each rank has a machine of its own, and talks over the loopback network: right, but slow.
#   launcher/local_mpirun.sh 2 tests/share_gpu.sh build/bin/comm_nccl_mpi_test
export NCCL_HOSTID="rank${OMPI_COMM_WORLD_RANK:?starts under mpirun}" NCCL_SOCKET_IFNAME=lo NCCL_IB_DISABLE=1
export OMPI_COMM_WORLD_LOCAL_RANK=0
exec "$@"
