"""The train step made ready for a mesh, whose devices need not be there; compiled programs kept for the next start."""

import functools
from pathlib import Path

import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alpaca_jax.data.packing import ROW_DTYPES
from alpaca_jax.model.definition import Definition
from alpaca_jax.parallel.mesh import batch_divisor, batch_sharding
from alpaca_jax.support.errors import UserError
from alpaca_jax.training.state import TrainState, abstract_state
from alpaca_jax.training.step import train_step


def trace_train_step(
    definition: Definition,
    optimiser: optax.GradientTransformation,
    config: ConfigDict,
    shardings: TrainState,
    mesh: Mesh,
    seq_len: int,
) -> jax.stages.Traced:
    """The train step traced for a mesh: (state, batch) to (state, metrics), the state donated.

    Args:
      definition: the model.
      optimiser: gradients to updates.
      config: sets the batch and the arithmetic.
      shardings: of the state.
      mesh: the devices, or descriptions of devices that are not here.
      seq_len: the length of the rows.
    """
    step = functools.partial(train_step, definition, optimiser, config)
    state = abstract_state(definition, optimiser, shardings, config.model.parameter_dtype)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
    with jax.set_mesh(mesh):
        return jitted.trace(state, abstract_batch(config, mesh, seq_len))


def abstract_batch(config: ConfigDict, mesh: Mesh, seq_len: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, types and shardings of a batch's arrays."""
    shape, sharding = (config.train.batch_rows, seq_len), batch_sharding(mesh)
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for name, dtype in ROW_DTYPES.items()}


def keep_compiled(folder: Path, mesh: Mesh) -> None:
    """From now on what takes a second or more to compile is kept in a folder, where a later run finds it.

    A cache that the user has chosen (JAX_COMPILATION_CACHE_DIR) stays. There is none for a CPU as several devices:
    programs out of the cache have been seen to wait for each other's collectives for ever there (jax 0.12).

    Args:
      folder: made when there is something to keep.
      mesh: the devices that the programs are for.
    """
    several_on_cpu = mesh.size > 1 and mesh.devices.flat[0].platform == "cpu"
    chosen = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if chosen is None and not several_on_cpu:
        jax.config.update("jax_compilation_cache_dir", str(folder))


def check_batch(config: ConfigDict, mesh: Mesh, seq_len: int) -> None:
    """Refuses a batch that does not divide over the mesh.

    Raises:
      UserError: its rows do not, or their length does not.
    """
    rows = batch_divisor(mesh) * config.train.microbatches
    if config.train.batch_rows % rows:
        raise UserError(
            "config.train.batch_rows",
            expected=f"a multiple of {rows} (mesh data × fsdp = {batch_divisor(mesh)}, times "
            f"{config.train.microbatches} microbatches)",
            found=str(config.train.batch_rows),
            remedy="change --config.train.batch_rows, --config.train.microbatches or the mesh",
        )
    if seq_len % mesh.shape["context"]:
        raise UserError(
            "config.mesh.context",
            expected=f"a divisor of the rows' length, {seq_len}",
            found=str(mesh.shape["context"]),
            remedy="change --config.mesh.context, or prepare rows of another length",
        )
