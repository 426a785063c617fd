"""What XLA and its libraries are told for each kind of accelerator: the one place, used to train and to plan alike.

They are given to the compilation itself, so that no launcher needs XLA_FLAGS; an option that the installed XLA does not
know is an error. What XLA_FLAGS or the variables below already say in the environment stays as the user set it.

Chosen by the compiled step of a 7B on 8 × A100 (jax 0.12.0.1, 64 rows of 2,048; peak memory a device, and gathers of
weights in the program), not yet by a clock:

    latency hiding   combining   double buffering   remat full         remat dots
    no               –           no                 28.7 GiB, 17       66.4 GiB, 17    more than half of them blocking
    yes              –           no                 31.0 GiB, 17       65.1 GiB, 17
    yes              512 MiB     no                 31.3 GiB, 3        65.2 GiB, 3
    yes              512 MiB     yes                31.6 GiB, 5        65.3 GiB, 5     what is used

Tried and left out: xla_disable_hlo_passes=rematerialization (no less memory or work, 1.3 GiB more with remat dots).
"""

import os

from alpaca_jax.parallel.chips import Chip

CompilerOptions = dict[str, bool | int]

_GPU: CompilerOptions = {
    # Collectives run beside arithmetic that does not need their result.
    "xla_gpu_enable_latency_hiding_scheduler": True,
    # The gathers of a layer's weights (400 MB in bfloat16 for a 7B) become one; so do the scatters of its gradients.
    "xla_gpu_all_gather_combine_threshold_bytes": 2**29,
    "xla_gpu_reduce_scatter_combine_threshold_bytes": 2**29,
    # Two layers in the body of the loop over layers: without it no gather can run beside the layer before.
    "xla_gpu_enable_while_loop_double_buffering": True,
}

# On-chip memory that a fused kernel may use, in KiB: v6e has 128 MiB, of which it is given 32 by default.
_TPU_V6E: CompilerOptions = {"xla_tpu_scoped_vmem_limit_kib": 98304}

_ENVIRONMENT = {
    # Of a GPU's memory, taken at the start; JAX's own 0.75 would not hold the peaks above. NCCL and CUDA have the rest.
    "XLA_CLIENT_MEM_FRACTION": "0.92",
    # NCCL sums in the NVLink switches of Hopper, which leaves more of the chip to arithmetic; else it is ignored.
    "NCCL_NVLS_ENABLE": "1",
}

# Loops as they are written: on CPUs a program compiles in 0.6 to 0.8 of the time then, and runs no slower.
_CPU_FLAG = ("--xla_backend_extra_options", "xla_cpu_disable_loop_unrolling")

# JAX refuses both at once.
_FORMER_NAMES = {"XLA_CLIENT_MEM_FRACTION": "XLA_PYTHON_CLIENT_MEM_FRACTION"}


def compiler_options(chip: Chip | None) -> CompilerOptions:
    """Options for `jax.stages.Lowered.compile`; none for a CPU or a chip that `chips.py` lacks (None)."""
    if chip is None:
        return {}
    if chip.platform == "gpu":
        return dict(_GPU)
    return dict(_TPU_V6E) if "TPU v6e" in chip.kinds else {}


def options_of_what_runs_once(platform: str) -> CompilerOptions:
    """Options for `jax.jit` of a program whose compilation takes longer than its only run.

    On a CPU, random weights compile in 0.6 to 0.7 of the time without LLVM's costly passes, and run as fast, to the
    same bits.
    """
    return {"xla_backend_optimization_level": 1} if platform == "cpu" else {}


def set_environment() -> None:
    """Sets what XLA's libraries read from the environment, where it does not stand there yet; before JAX is used."""
    for name, value in _ENVIRONMENT.items():
        if _FORMER_NAMES.get(name, name) not in os.environ:
            os.environ.setdefault(name, value)
    name, value = _CPU_FLAG
    chosen = os.environ.get("XLA_FLAGS", "")
    if name not in chosen:
        os.environ["XLA_FLAGS"] = f"{chosen} {name}={value}".strip()
