"""How a GGUF file of the llama architecture says that its rotary embedding is scaled."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from alpaca_jax.model.config import ModelConfig
from alpaca_jax.model.rope_scaling import LinearScaling, Llama3Scaling
from alpaca_jax.support.errors import UserError, shorten

# Keys under `llama.`; the last two describe how a model came to be, and change nothing.
ROPE_KEYS = {
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scale_linear",  # an older name of the factor
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
}
# One divisor for each pair of channels; LLaMA 3.1 and 3.2 have it instead of keys.
ROPE_TENSOR = "rope_freqs.weight"
# LLaMA 3.1's factor and 3.2's; the other numbers are the same for both.
_LLAMA3_FACTORS = (8.0, 32.0)

Refuse = Callable[[str, str, str], UserError]


def read_linear_scaling(value: Callable[[str], Any], refuse: Refuse) -> LinearScaling | None:
    """The scaling that the keys tell of.

    A factor without a type is linear, and 0 means none, as llama.cpp reads them.

    Args:
      value: gives the metadata under one of `ROPE_KEYS`, or None.
      refuse: makes the error from a key, what was expected and what was found.

    Raises:
      UserError: another type, or a factor that is no number.
    """
    kind = value("rope.scaling.type")
    if kind not in (None, "none", "linear"):
        raise refuse("rope.scaling.type", "'none' or 'linear'", shorten(kind))
    for key in ("rope.scaling.factor", "rope.scale_linear"):
        factor = value(key)
        if factor in (None, 0.0, 1.0):
            continue
        if kind == "none" or not isinstance(factor, float) or not 0 < factor < np.inf:
            raise refuse(key, "0.0 or 1.0" if kind == "none" else "one positive number", shorten(factor))
        return LinearScaling(factor)
    return None


def with_frequency_divisors(model: ModelConfig, divisors_q: np.ndarray, refuse: Refuse) -> ModelConfig:
    """The model with the LLaMA 3 scaling that divides its frequencies by these numbers.

    Raises:
      UserError: none of the published scalings does.
    """
    from alpaca_jax.model.rope import rope_frequencies

    if model.rope_scaling is not None:
        raise refuse(ROPE_TENSOR, "one scaling of the rotary embedding", "this tensor and a factor in the metadata")
    for factor in _LLAMA3_FACTORS:
        scaling = Llama3Scaling(
            factor, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192
        )
        scaled = dataclasses.replace(model, rope_scaling=scaling)
        wanted_q = rope_frequencies(model) / rope_frequencies(scaled)
        if divisors_q.shape == wanted_q.shape and np.allclose(divisors_q, wanted_q, rtol=1e-4, atol=0):
            return scaled
    raise refuse(ROPE_TENSOR, "the divisors of LLaMA 3.1 or 3.2", "others")
