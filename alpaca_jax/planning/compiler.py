"""Compiles the very train step of a configuration for its target, and reads off what it needs."""

import dataclasses
import time
from typing import Any

from ml_collections import ConfigDict

from alpaca_jax.model.config import ModelConfig
from alpaca_jax.model.definition import define
from alpaca_jax.parallel.chips import CHIPS, Target
from alpaca_jax.parallel.compiler_options import compiler_options
from alpaca_jax.parallel.mesh import MESH_AXES, make_mesh
from alpaca_jax.planning.arithmetic import matrix_flops
from alpaca_jax.planning.devices import describe, memory_limit
from alpaca_jax.planning.hlo import Collective, Program
from alpaca_jax.training.compilation import check_batch, trace_train_step
from alpaca_jax.training.optimiser import learning_rate_schedule, make_optimiser
from alpaca_jax.training.state import state_shardings

# Of Alpaca's tokens the share that is trained, and some more, since the fullest device decides.
_TRAINED = 0.56


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """What the compiler says of a step; bytes and FLOPs are those of one device.

    Attributes:
      state: the weights and moments that lie there all the time.
      peak: the most that is in use at once, state included.
      limit: what a program may use.
      flops: of the matrix products, recomputation included.
      moved: bytes that the other kernels read and write.
      collectives: what it sends.
      kernels: the names of library kernels in it.
      seconds: how long tracing and compiling took on this machine.
    """

    state: int
    peak: int
    limit: int
    flops: float
    moved: float
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
    definition = define(model, config.model.remat)
    optimiser = make_optimiser(config, learning_rate_schedule(config, 1000))
    shardings = state_shardings(definition, optimiser, mesh)
    traced = trace_train_step(definition, optimiser, config, shardings, mesh, config.data.seq_len)
    compiled = traced.lower().compile(compiler_options=compiler_options(CHIPS[target.chip]))
    seconds = time.perf_counter() - began

    rows = config.train.batch_rows // config.train.microbatches
    tokens = rows * config.data.seq_len / (len(devices) / mesh.shape["tensor"])
    head_chunks = max(1.0, _TRAINED * tokens / config.model.loss_chunk)
    memory = compiled.memory_analysis()
    program = Program(compiled.as_text(), open_loops=head_chunks)
    return CompiledStep(
        state=memory.argument_size_in_bytes,
        peak=memory.peak_memory_in_bytes,
        limit=memory_limit(CHIPS[target.chip]),
        flops=matrix_flops(traced, head_chunks) / len(devices),
        moved=program.moved(),
        collectives=program.collectives(),
        kernels=program.custom_calls(),
        seconds=seconds,
    )
