"""Descriptions of devices that are not here, for the compiler (https://docs.jax.dev/en/latest/aot.html)."""

import os
from collections.abc import Sequence
from typing import Any

from alpaca_jax.parallel.chips import CHIPS, Chip, Target
from alpaca_jax.support.errors import UserError

# What XLA wants to know of a GPU besides the figures of `chips.py`: compute capability, multiprocessors, arithmetic
# units and shared memory (bytes) of each, what a block may take of it, cache (bytes), clock (GHz).
_GPU_DETAILS = {
    "a100_80gb": ("NVIDIA A100-SXM4-80GB", 8, 108, 64, 167_936, 166_912, 41_943_040, 1.41),
    "a100_40gb": ("NVIDIA A100-SXM4-40GB", 8, 108, 64, 167_936, 166_912, 41_943_040, 1.41),
    "h100": ("NVIDIA H100 80GB HBM3", 9, 132, 128, 233_472, 232_448, 52_428_800, 1.98),
    "h200": ("NVIDIA H200", 9, 132, 128, 233_472, 232_448, 62_914_560, 1.98),
}
# TPUs of two cores, which JAX shows as one device.
_TWO_CORES = ("tpu_v4", "tpu_v5p")
_GPU_TEXT = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: {shared} threads_per_core_limit: 2048 core_count: {cores} fpus_per_core: {units}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth} l2_cache_size: {cache} clock_rate_ghz: {clock} device_memory_size: {memory}
  shared_memory_per_block_optin: {block} cuda_compute_capability {{ major: {major} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }} runtime_version {{ major: 13 minor: 0 }}
device_description_str: "{name}"
"""

# libtpu would ask a cloud for the machine's description, complain that it has none, and serve one process at a time.
_NO_TPU_HERE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",  # any will do
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def compile_on_this_machine() -> None:
    """Sets what JAX and the compilers must find in the environment; to be called before JAX is imported."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.update(_NO_TPU_HERE)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA warns of memory; how much it is, is what is asked here


def describe(target: Target) -> Sequence[Any]:
    """The target's devices, as far as the compiler cares.

    Raises:
      UserError: the compiler for them is not installed.
    """
    from jax.experimental import topologies

    chip = CHIPS[target.chip]
    try:
        if chip.platform == "tpu":
            cores = "megacore" if target.chip in _TWO_CORES else "default"
            slices = {"num_slices": target.slices} if target.slices > 1 else {}
            topology = topologies.get_topology_desc(
                platform="tpu", topology_name=target.topology, chip_config_name=cores, **slices
            )
        else:
            topology = topologies.get_topology_desc(
                platform="cuda", target_config=_gpu_text(target.chip, chip), topology=target.topology
            )
    except Exception as error:  # the runtime's own class, or whatever a missing plugin raises
        extra = "tpu" if chip.platform == "tpu" else "plan"
        raise UserError(
            f"compiler for {target.chip}",
            expected=f"the packages of the extra {extra!r}",
            found=str(error).splitlines()[0][:160] if str(error) else type(error).__name__,
            remedy=f"pip install 'alpaca-jax[{extra}]'",
        ) from None
    return topology.devices


def memory_limit(chip: Chip) -> int:
    """Bytes that a program may use.

    On a GPU JAX takes this share at the start (XLA_CLIENT_MEM_FRACTION, which `train` sets) and leaves the
    rest to the driver and to NCCL; a TPU's runtime keeps a quarter of a GiB.
    """
    return int(chip.memory * 0.92) if chip.platform == "gpu" else chip.memory - 2**28


def _gpu_text(name: str, chip: Chip) -> str:
    title, major, cores, units, shared, block, cache, clock = _GPU_DETAILS[name]
    return _GPU_TEXT.format(
        name=title,
        major=major,
        cores=cores,
        units=units,
        shared=shared,
        block=block,
        cache=cache,
        clock=clock,
        bandwidth=int(chip.bandwidth),
        memory=chip.memory,
    )
