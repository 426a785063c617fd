"""A checkpoint on disk to a generator on the devices there are."""

from pathlib import Path

import jax

from alpaca_jax.checkpoint.folder import CheckpointFolder
from alpaca_jax.checkpoint.store import Store, abstract_parameters
from alpaca_jax.generation.generator import Generator
from alpaca_jax.model.definition import define
from alpaca_jax.parallel.mesh import make_mesh
from alpaca_jax.parallel.sharding import parameter_shardings


def load_generator(checkpoint: str | Path, dtype: str | None = None) -> Generator:
    """The model of a checkpoint, its newest step, split over all devices.

    Args:
      checkpoint: what `convert import` wrote, or a work directory of `train`.
      dtype: the type to compute in; None for bfloat16 on an accelerator and float32 on a CPU.

    Raises:
      UserError: no checkpoint there, or a damaged one.
    """
    folder = CheckpointFolder.open(checkpoint)
    tokenizer = folder.tokenizer()
    definition = define(folder.model)
    mesh = make_mesh({"data": 1, "fsdp": -1, "tensor": 1})
    shardings = parameter_shardings(mesh, definition.logical_axes, definition.shapes)
    dtype = dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    with Store(folder.path) as store:
        parameters = store.restore_parameters(abstract_parameters(definition.shapes, shardings, dtype))
    return Generator(definition, parameters, tokenizer, mesh)
