"""A checkpoint of the tiny model on disk, with numbers in it that are the same under every version of JAX."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from alpaca_jax.checkpoint.folder import CheckpointFolder
from alpaca_jax.checkpoint.store import Store
from alpaca_jax.data.embedded import TOKENIZER
from alpaca_jax.data.prompt import TEMPLATES
from alpaca_jax.data.tokenizer import load_tokenizer
from alpaca_jax.model.config import ModelConfig
from alpaca_jax.model.definition import Parameters, define
from tests.models import SMALL


def random_weights(seed: int = 0, model: ModelConfig = SMALL) -> Parameters:
    """Numbers of a size that makes each prompt's answer another one; other seeds give other models."""
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda one: jnp.asarray(generator.normal(0, 0.3, one.shape), "float32"), define(model).shapes)


def write_checkpoint(path: Path, seed: int = 0, model: ModelConfig = SMALL) -> Path:
    """Writes one of these weights, and says where."""
    tokenizer, template = load_tokenizer(TOKENIZER), TEMPLATES["alpaca"]
    folder = CheckpointFolder.create(path, model, tokenizer, provenance={}, template=template)
    with Store(folder.path) as store:
        store.save(0, random_weights(seed, model))
    return path
