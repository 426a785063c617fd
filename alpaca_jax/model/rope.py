"""Rotary position embedding (Su et al. 2021, https://arxiv.org/abs/2104.09864).

Channel i is turned with channel i + Q/2 (Hugging Face's order; Meta's files pair 2i with 2i + 1 and are reordered when
they are brought in).

B batch, L sequence length, H heads, Q head dimension.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int

from alpaca_jax.model.config import ModelConfig

Angles = tuple[Float32[Array, "B L q"], Float32[Array, "B L q"]]  # sine and cosine; q = Q/2


def rope_angles(positions_BL: Int[Array, "B L"], config: ModelConfig) -> Angles:
    """Sine and cosine of position × θ^(-2i/Q), float32 [B, L, Q/2] each; the same for every layer, so made once."""
    exponents_q = jnp.arange(0, config.head_dim, 2, dtype=jnp.float32) / config.head_dim
    frequencies_q = 1.0 / (config.rope_theta**exponents_q)
    angles_BLq = positions_BL.astype(jnp.float32)[..., None] * frequencies_q
    return jnp.sin(angles_BLq), jnp.cos(angles_BLq)


def apply_rope(x_BLHQ: Float[Array, "B L H Q"], angles: Angles) -> Float[Array, "B L H Q"]:
    """Turns each pair of channels by its angle; computed in float32, returned in the type of `x_BLHQ`."""
    sin_BL1q, cos_BL1q = (angle[:, :, None, :] for angle in angles)
    first, second = jnp.split(x_BLHQ.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos_BL1q - second * sin_BL1q, second * cos_BL1q + first * sin_BL1q], axis=-1)
    return turned.astype(x_BLHQ.dtype)
