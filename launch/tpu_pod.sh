#!/bin/bash
# A slice of Google Cloud TPUs with several hosts: the same command on all of them, through gcloud.
#
#   TPU=my-v4-32 ZONE=us-central2-b launch/tpu_pod.sh --config=configs/alpaca_7b.py:tpu_v4_32 \
#       --workdir=/mnt/shared/7b \
#       --config.model.checkpoint=/mnt/shared/weights --config.data.path=/mnt/shared/data
#
# Everything goes to `train`. On each host the project lies in ~/alpaca_jax with its .venv (extra `tpu`); once for all:
#
#   gcloud compute tpus tpu-vm scp --recurse . "$TPU":alpaca_jax --zone="$ZONE" --worker=all
#   gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command='cd alpaca_jax &&
#       python3 -m venv .venv && .venv/bin/pip install --editable .[tpu]'
#
# The work directory and the data must be on a file system that all hosts have mounted (Filestore, for one).
# Several slices that were made as one queued resource are joined too: `data` of the mesh then runs over them.
set -euo pipefail

# ALPACA_JAX_CLUSTER=auto: JAX asks Google's metadata server for the other hosts.
exec gcloud compute tpus tpu-vm ssh "${TPU:?the name of the TPU}" --zone="${ZONE:?its zone}" --worker=all \
    --command="cd alpaca_jax && ALPACA_JAX_CLUSTER=auto .venv/bin/python -m alpaca_jax.train $(printf '%q ' "$@")"
