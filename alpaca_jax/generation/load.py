"""A checkpoint on disk to a generator on the devices there are."""

from pathlib import Path

import jax

from alpaca_jax.checkpoint.folder import CheckpointFolder, template_to_use
from alpaca_jax.checkpoint.store import Store, abstract_parameters
from alpaca_jax.data.examples import special_ids
from alpaca_jax.generation.generator import Generator
from alpaca_jax.model.definition import define
from alpaca_jax.parallel.mesh import make_mesh
from alpaca_jax.parallel.sharding import parameter_shardings


def load_generator(checkpoint: str | Path, dtype: str | None = None, template: str | None = None) -> Generator:
    """The model of a checkpoint, split over all devices.

    Args:
      checkpoint: what `convert import` wrote, or a work directory of `train`; a step of either may be named after it.
      dtype: the type to compute in; None for bfloat16 on an accelerator and float32 on a CPU.
      template: the name of the prompt template; None for the one it was fine-tuned with, or else Alpaca's.

    Raises:
      UserError: no checkpoint there, a damaged one, or one that was fine-tuned with another template.
    """
    folder = CheckpointFolder.open(checkpoint)
    chosen = template_to_use(folder, template)
    tokenizer = folder.tokenizer()
    special_ids(chosen, tokenizer)  # refuses one without them before the weights are read
    definition = define(folder.model)
    mesh = make_mesh({"fsdp": -1})
    shardings = parameter_shardings(mesh, definition.logical_axes, definition.shapes)
    dtype = dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    with Store(folder.path) as store:
        parameters = store.restore_parameters(abstract_parameters(definition.shapes, shardings, dtype), folder.step)
    return Generator(definition, parameters, tokenizer, chosen, mesh)
