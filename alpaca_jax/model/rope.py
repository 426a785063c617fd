"""Rotary position embedding (Su et al. 2021, https://arxiv.org/abs/2104.09864).

Channel i is turned with channel i + Q/2 (Hugging Face's order; Meta's files pair 2i with 2i + 1 and are reordered when
they are brought in).

B batch, L sequence length, H heads, Q head dimension, q = Q/2.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from alpaca_jax.model.config import ModelConfig

Angles = tuple[Float32[Array, "B L q"], Float32[Array, "B L q"]]  # sine and cosine


def rope_frequencies(config: ModelConfig) -> Float32[np.ndarray, "q"]:
    """Radians that each pair of channels turns by a position: θ^(-2i/Q), or what `rope_scaling` makes of it."""
    exponents_q = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    # A power in float32 may be off by a bit, and not by the same in each library; this one is rounded once.
    powers_q = (np.float64(np.float32(config.rope_theta)) ** exponents_q).astype(np.float32)
    scaling = config.rope_scaling
    return 1 / powers_q if scaling is None else scaling.frequencies(powers_q, config.rope_theta)


def rope_angles(positions_BL: Int[Array, "B L"], config: ModelConfig) -> Angles:
    """Sine and cosine of position × frequency, float32 [B, L, Q/2] each; the same for every layer, so made once.

    Both carry the factor that YaRN wants queries and keys multiplied by.
    """
    angles_BLq = positions_BL.astype(jnp.float32)[..., None] * rope_frequencies(config)
    sin_BLq, cos_BLq = jnp.sin(angles_BLq), jnp.cos(angles_BLq)
    if config.rope_scaling is None or config.rope_scaling.attention_factor == 1:
        return sin_BLq, cos_BLq
    factor = config.rope_scaling.attention_factor
    return sin_BLq * factor, cos_BLq * factor


def apply_rope(x_BLHQ: Float[Array, "B L H Q"], angles: Angles) -> Float[Array, "B L H Q"]:
    """Turns each pair of channels by its angle; computed in float32, returned in the type of `x_BLHQ`."""
    sin_BL1q, cos_BL1q = (angle[:, :, None, :] for angle in angles)
    first, second = jnp.split(x_BLHQ.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos_BL1q - second * sin_BL1q, second * cos_BL1q + first * sin_BL1q], axis=-1)
    return turned.astype(x_BLHQ.dtype)
