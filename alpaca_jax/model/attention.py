"""Attention over packed rows and over a key-value cache.

B batch, L queries, S keys, H heads, K key-value heads, Q head dimension.
"""

import jax
import jax.numpy as jnp


def packed_attention(
    q_BLHQ: jax.Array, k_BLKQ: jax.Array, v_BLKQ: jax.Array, segment_ids_BL: jax.Array
) -> jax.Array:
    """Causal attention in which a token sees only its own segment: packed examples never meet.

    Returns:
      [B, L, H, Q], in the type of the queries; softmax in float32.
    """
    length = segment_ids_BL.shape[1]
    causal_LL = jnp.tril(jnp.ones((length, length), bool))
    same_BLL = segment_ids_BL[:, :, None] == segment_ids_BL[:, None, :]
    mask_B1LL = (causal_LL & same_BLL)[:, None]
    return jax.nn.dot_product_attention(q_BLHQ, k_BLKQ, v_BLKQ, mask=mask_B1LL, implementation="xla")


def cached_attention(
    q_BLHQ: jax.Array, k_BSKQ: jax.Array, v_BSKQ: jax.Array, positions_BL: jax.Array
) -> jax.Array:
    """Attention of queries at `positions_BL` to the cache's slots up to their own position, that one included.

    Slots beyond a query's position may hold anything: what is left of padding, or of an earlier request.
    """
    slots_S = jnp.arange(k_BSKQ.shape[1])
    mask_B1LS = (slots_S <= positions_BL[:, :, None])[:, None]
    return jax.nn.dot_product_attention(q_BLHQ, k_BSKQ, v_BSKQ, mask=mask_B1LS, implementation="xla")
