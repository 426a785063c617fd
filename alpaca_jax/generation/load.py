"""A checkpoint on disk to an engine, or a generator, on the devices there are."""

from pathlib import Path

import jax

from alpaca_jax.checkpoint.folder import CheckpointFolder, template_to_use
from alpaca_jax.checkpoint.store import Store, abstract_parameters
from alpaca_jax.data.examples import special_ids
from alpaca_jax.generation.engine import Engine
from alpaca_jax.generation.generator import Generator
from alpaca_jax.generation.watermark import Watermark
from alpaca_jax.generation.weights import INT8, quantise_all, separate_layers
from alpaca_jax.model.definition import define
from alpaca_jax.parallel.compiler_options import set_environment
from alpaca_jax.parallel.mesh import make_mesh
from alpaca_jax.parallel.sharding import parameter_shardings


def load_generator(
    checkpoint: str | Path,
    dtype: str | None = None,
    template: str | None = None,
    *,
    slots: int = 8,
    watermark: Watermark | None = None,
) -> Generator:
    """The model of a checkpoint, to answer prompts that are all known beforehand; see `load_engine`."""
    return Generator(load_engine(checkpoint, dtype, template, slots=slots, watermark=watermark))


def load_engine(
    checkpoint: str | Path,
    dtype: str | None = None,
    template: str | None = None,
    *,
    slots: int = 8,
    context: int | None = None,
    watermark: Watermark | None = None,
) -> Engine:
    """The model of a checkpoint, split over all devices.

    Args:
      checkpoint: what `convert import` wrote, or a work directory of `train`; a step of either may be named after it.
      dtype: the type to compute in; None for bfloat16 on an accelerator and float32 on a CPU. `int8`: the matrices are
        kept in eight bits (see `model.quantised`), and computing goes on in that type.
      template: the name of the prompt template; None for the one it was fine-tuned with, or else Alpaca's.
      slots: how many answers are under way at the same time, at most.
      context: the longest prompt and answer together, in tokens; None for the model's own.
      watermark: put into every answer; None for none.

    Raises:
      UserError: no checkpoint there, a damaged one, or one that was fine-tuned with another template.
    """
    set_environment()
    folder = CheckpointFolder.open(checkpoint)
    chosen = template_to_use(folder, template)
    tokenizer = folder.tokenizer()
    special_ids(chosen, tokenizer)  # refuses one without them before the weights are read
    definition = define(folder.model)
    mesh = make_mesh({"fsdp": -1})
    shardings = parameter_shardings(mesh, definition.logical_axes, definition.shapes)
    usual = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    kept_as = usual if dtype in (None, INT8) else dtype
    with Store(folder.path) as store:
        parameters = store.restore_parameters(abstract_parameters(definition.shapes, shardings, kept_as), folder.step)
    change = quantise_all if dtype == INT8 else separate_layers
    parameters = change(parameters, definition)
    return Engine(definition, parameters, tokenizer, chosen, mesh, slots=slots, context=context, watermark=watermark)
