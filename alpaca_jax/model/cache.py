"""The key-value cache: what earlier tokens left for later ones to attend to.

N layers, B batch, S slots, L new tokens, K key-value heads, Q head dimension.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from alpaca_jax.model.config import ModelConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of all layers, [N, B, S, K, Q] each; slot s holds the token at position s."""

    k_NBSKQ: Float[Array, "N B S K Q"]
    v_NBSKQ: Float[Array, "N B S K Q"]

    @classmethod
    def empty(cls, config: ModelConfig, batch: int, slots: int, dtype: DTypeLike) -> "KVCache":
        """A cache for `batch` sequences of up to `slots` tokens."""
        shape = (config.num_layers, batch, slots, config.num_kv_heads, config.head_dim)
        return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def write_slots(
    cache_BSKQ: Float[Array, "B S K Q"], new_BLKQ: Float[Array, "B L K Q"], positions_BL: Int[Array, "B L"]
) -> Float[Array, "B S K Q"]:
    """One layer's cache with new keys (or values) put into the slots of their positions."""
    rows_B1 = jnp.arange(cache_BSKQ.shape[0])[:, None]
    return cache_BSKQ.at[rows_B1, positions_BL].set(new_BLKQ.astype(cache_BSKQ.dtype))
