#!/bin/bash
# Any single machine: one process with all its devices, be they GPUs, the chips of one TPU host, or a CPU.
#
#   launch/local.sh --config=configs/alpaca_7b.py:a100x8 --workdir=runs/7b \
#       --config.model.checkpoint=WEIGHTS --config.data.path=DATA
#
# Everything goes to `train`. PYTHON chooses another interpreter than .venv's.
set -euo pipefail

exec "${PYTHON:-.venv/bin/python}" -m alpaca_jax.train "$@"
