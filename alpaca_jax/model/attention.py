"""Attention over packed rows and over a key-value cache.

B batch, L queries, S keys, H heads, K key-value heads, Q head dimension.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def packed_attention(
    q_BLHQ: Float[Array, "B L H Q"],
    k_BLKQ: Float[Array, "B L K Q"],
    v_BLKQ: Float[Array, "B L K Q"],
    segment_ids_BL: Int[Array, "B L"],
) -> Float[Array, "B L H Q"]:
    """Causal attention in which a token sees only its own segment: packed examples never meet.

    The softmax runs in float32; the result has the type of the queries.
    """
    length = segment_ids_BL.shape[1]
    causal_LL = jnp.tril(jnp.ones((length, length), bool))
    same_BLL = segment_ids_BL[:, :, None] == segment_ids_BL[:, None, :]
    mask_B1LL = (causal_LL & same_BLL)[:, None]
    return jax.nn.dot_product_attention(q_BLHQ, k_BLKQ, v_BLKQ, mask=mask_B1LL, implementation="xla")


def cached_attention(
    q_BLHQ: Float[Array, "B L H Q"],
    k_BSKQ: Float[Array, "B S K Q"],
    v_BSKQ: Float[Array, "B S K Q"],
    positions_BL: Int[Array, "B L"],
) -> Float[Array, "B L H Q"]:
    """Attention of queries at `positions_BL` to the cache's slots up to their own position, that one included.

    Slots beyond a query's position may hold anything: what is left of padding, or of an earlier request.
    """
    slots_S = jnp.arange(k_BSKQ.shape[1])
    mask_B1LS = (slots_S <= positions_BL[:, :, None])[:, None]
    return jax.nn.dot_product_attention(q_BLHQ, k_BSKQ, v_BSKQ, mask=mask_B1LS, implementation="xla")
