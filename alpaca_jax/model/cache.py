"""The key-value cache: what earlier tokens left for later ones to attend to.

N layers, B batch, S slots, L new tokens, K key-value heads, Q head dimension.
"""

import dataclasses

import jax
import jax.numpy as jnp

from alpaca_jax.model.config import ModelConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of all layers, [N, B, S, K, Q] each; slot s holds the token at position s."""

    k_NBSKQ: jax.Array
    v_NBSKQ: jax.Array

    @classmethod
    def empty(cls, config: ModelConfig, batch: int, slots: int, dtype: jnp.dtype) -> "KVCache":
        """A cache for `batch` sequences of up to `slots` tokens."""
        shape = (config.num_layers, batch, slots, config.num_kv_heads, config.head_dim)
        return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def write_slots(cache_BSKQ: jax.Array, new_BLKQ: jax.Array, positions_BL: jax.Array) -> jax.Array:
    """One layer's cache with new keys (or values) put into the slots of their positions."""
    rows_B1 = jnp.arange(cache_BSKQ.shape[0])[:, None]
    return cache_BSKQ.at[rows_B1, positions_BL].set(new_BLKQ.astype(cache_BSKQ.dtype))
