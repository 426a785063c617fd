"""Compiles the very train step of a configuration for its target, and reads off what it needs."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from alpaca_jax.model.attention_choice import Need, choose_attention
from alpaca_jax.model.config import ModelConfig
from alpaca_jax.model.definition import define
from alpaca_jax.parallel.chips import CHIPS, Target
from alpaca_jax.parallel.compiler_options import compiler_options
from alpaca_jax.parallel.mesh import MESH_AXES, make_mesh
from alpaca_jax.planning.arithmetic import matrix_flops
from alpaca_jax.planning.devices import describe, memory_limit
from alpaca_jax.planning.hlo import Collective, Program
from alpaca_jax.planning.links import placed
from alpaca_jax.support.progress import waiting
from alpaca_jax.training.compilation import check_batch, trace_train_step
from alpaca_jax.training.optimiser import learning_rate_schedule, make_optimiser
from alpaca_jax.training.state import state_shardings

# Kernels cannot be tried out on a chip that is not here.
_NO_TRIALS = {"gpu": {"xla_gpu_autotune_level": 0}, "tpu": {}}

# Of Alpaca's tokens the share that is trained, and some more, since the fullest device decides.
_TRAINED = 0.56


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """What the compiler says of a step; bytes and FLOPs are those of one device.

    Attributes:
      state: the weights and moments that lie there all the time, and the batch.
      donated: of it, what the next state is written over.
      peak: the most that is in use at once, state included.
      limit: what a program may use.
      flops: of the matrix products, recomputation included, those of library kernels for attention left out.
      attention_flops: of those.
      moved: bytes that the other kernels read and write.
      carried: bytes that it sends to the host's memory and takes from there.
      collectives: what it sends to other devices.
      kernels: the names of library kernels in it.
      seconds: how long tracing and compiling took on this machine.
    """

    state: int
    donated: int
    peak: int
    limit: int
    flops: float
    attention_flops: float
    moved: float
    carried: float
    collectives: list[Collective]
    kernels: set[str]
    seconds: float

    @property
    def fits(self) -> bool:
        """Whether the step runs on the chip."""
        return self.peak <= self.limit


def compile_step(config: ConfigDict, target: Target, model: ModelConfig, devices: Any = None) -> CompiledStep:
    """Compiles the train step for a target.

    Args:
      config: sets mesh, batch, arithmetic; `data.seq_len` is the length of the rows.
      target: the machine, which need not be here.
      model: the sizes.
      devices: those of the target, where they have been described before.

    Raises:
      UserError: the compiler is not installed, or the mesh or the batch does not fit the devices.
    """
    began = time.perf_counter()
    devices = describe(target) if devices is None else devices
    mesh = make_mesh({axis: config.mesh[axis] for axis in MESH_AXES}, devices)
    check_batch(config, mesh, config.data.seq_len)
    need = Need(model, config.data.seq_len, config.model.compute_dtype)
    definition = define(model, config.model.remat, choose_attention(config.model.attention, mesh, need).kernel)
    optimiser = make_optimiser(config, learning_rate_schedule(config, 1000))
    shardings = state_shardings(definition, optimiser, mesh)
    options = compiler_options(CHIPS[target.chip]) | _NO_TRIALS[target.platform]
    settings = f"microbatches {config.train.microbatches}, remat {config.model.remat}"
    with waiting(f"compiling for {target.devices} × {target.chip}, {settings}"), _nothing_cached():
        traced = trace_train_step(definition, optimiser, config, shardings, mesh, config.data.seq_len)
        compiled = traced.lower().compile(compiler_options=options)
    seconds = time.perf_counter() - began

    rows = config.train.batch_rows // config.train.microbatches
    tokens = rows * config.data.seq_len / (len(devices) / mesh.shape["tensor"])
    head_chunks = math.ceil(_TRAINED * tokens / config.model.loss_chunk)
    memory = compiled.memory_analysis()
    flops = matrix_flops(traced, head_chunks)
    program = Program(compiled.as_text(), open_loops=head_chunks)
    return CompiledStep(
        state=memory.argument_size_in_bytes,
        donated=memory.alias_size_in_bytes,
        peak=memory.peak_memory_in_bytes,
        limit=memory_limit(CHIPS[target.chip]),
        flops=flops.products / len(devices),
        attention_flops=flops.attention / len(devices),
        moved=program.moved(),
        carried=program.carried(),
        collectives=placed(program.collectives(), list(mesh.devices.flat), target),
        kernels=program.custom_calls(),
        seconds=seconds,
    )


@contextlib.contextmanager
def _nothing_cached() -> Iterator[None]:
    """Keeps the program out of JAX's cache of compiled ones, which cannot read it back: it runs on no device here."""
    key = "jax_persistent_cache_min_compile_time_secs"
    before = jax.config.values[key]
    jax.config.update(key, math.inf)
    try:
        yield
    finally:
        jax.config.update(key, before)
