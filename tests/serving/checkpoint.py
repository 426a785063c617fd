"""A checkpoint of the tiny model on disk, with random numbers in it."""

from pathlib import Path

import jax

from alpaca_jax.checkpoint.folder import CheckpointFolder
from alpaca_jax.checkpoint.store import Store
from alpaca_jax.data.embedded import TOKENIZER
from alpaca_jax.data.prompt import TEMPLATES
from alpaca_jax.data.tokenizer import load_tokenizer
from alpaca_jax.model.config import ModelConfig
from alpaca_jax.model.definition import define
from alpaca_jax.parallel.mesh import make_mesh
from alpaca_jax.parallel.sharding import parameter_shardings


def write_checkpoint(path: Path, model: ModelConfig) -> Path:
    """Writes one, and says where."""
    folder = CheckpointFolder.create(
        path, model, load_tokenizer(TOKENIZER), provenance={}, template=TEMPLATES["alpaca"]
    )
    definition = define(model)
    shardings = parameter_shardings(make_mesh({"fsdp": -1}), definition.logical_axes, definition.shapes)
    with Store(folder.path) as store:
        store.save(0, jax.jit(definition.initialise, static_argnums=0, out_shardings=shardings)(0))
    return path
