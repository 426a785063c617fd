#!/bin/bash
# Slurm: one process a node, with all the devices that the job has there.
#
#   sbatch --nodes=4 --gpus-per-node=8 --output=slurm-%j.log \
#       launch/slurm.sh --config=configs/llama3_70b.py:h100x32 --workdir=runs/70b \
#       --config.model.checkpoint=WEIGHTS --config.data.path=DATA
#
# Everything after the script's name goes to `train`. The folder that it is submitted from, the work directory and the
# data must be on a file system that all nodes share. PYTHON chooses another interpreter than .venv's. One process for
# each GPU instead: add --ntasks-per-node=8. The job's exit code is that of `train`: 2 for what the user can mend.
#
# A job that is requeued (by an administrator, or because its node failed) goes on from the newest checkpoint, as `train`
# does whenever it is started again. Two minutes before its time is over, and when it is preempted, `train` gets SIGTERM,
# saves, and ends with 75, which it also does when another process has died: the job then requeues itself. `scancel`
# ends it for good.
#
#SBATCH --job-name=alpaca_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
set -euo pipefail

# By its address, since a node's name need not resolve on the others; the port differs between jobs that share a node.
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=$(scontrol --oneliner show node "${nodes[0]}" | sed -E 's/.* NodeAddr=(\S+).*/\1/')
export JAX_COORDINATOR_ADDRESS="$address:$((61440 + SLURM_JOB_ID % 4096))"

# A process that fails ends the others itself, with a line; Slurm would kill them before they can say it.
# Unbound, as the threads that read data want all cores of the node.
code=0
srun --kill-on-bad-exit=0 --cpu-bind=none "${PYTHON:-.venv/bin/python}" -m alpaca_jax.train "$@" || code=$?
if [ "$code" = 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
