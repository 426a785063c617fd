"""Attention over packed rows and over a key-value cache.

`visible` alone says which token sees which; the two functions below say where the tokens lie and apply it. A kernel
that works the mask out by itself (from positions, segments and the window) can take the place of either.

B batch, L queries, S keys, H heads, K key-value heads, Q head dimension.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Segments = tuple[Int[Array, "B L"], Int[Array, "B S"]]  # of the queries and of the keys


def visible(
    queries_BL: Int[Array, "#B L"], keys_BS: Int[Array, "#B S"], window: int | None, segments: Segments | None = None
) -> Bool[Array, "b L S"]:
    """Whether a query sees a key: not later than itself, among the last `window`, in the same segment.

        query 3 of a window of 2, keys 0 … 4 in segments 1 1 1 1 1:   . . x x .
        the same without a window, in segments 1 1 2 2 2:             . . x x .

    Args:
      queries_BL: the places of the queries in their rows.
      keys_BS: the places of the keys.
      window: how many places a query sees, its own counted (as Mistral counts them); None for all before it.
      segments: the segments of queries and keys; None where a row holds one.
    """
    distances = queries_BL[:, :, None] - keys_BS[:, None, :]
    mask = distances >= 0
    if window is not None:
        mask &= distances < window
    if segments is not None:
        mask &= segments[0][:, :, None] == segments[1][:, None, :]
    return mask


def packed_attention(
    q_BLHQ: Float[Array, "B L H Q"],
    k_BLKQ: Float[Array, "B L K Q"],
    v_BLKQ: Float[Array, "B L K Q"],
    segment_ids_BL: Int[Array, "B L"],
    window: int | None = None,
) -> Float[Array, "B L H Q"]:
    """Causal attention in which a token sees only its own segment: packed examples never meet.

    The softmax runs in float32; the result has the type of the queries.
    """
    # Places in the row do as well as positions: within a segment they differ by a constant.
    places_1L = jnp.arange(segment_ids_BL.shape[1])[None]
    mask_BLL = visible(places_1L, places_1L, window, (segment_ids_BL, segment_ids_BL))
    return jax.nn.dot_product_attention(q_BLHQ, k_BLKQ, v_BLKQ, mask=mask_BLL[:, None], implementation="xla")


def cached_attention(
    q_BLHQ: Float[Array, "B L H Q"],
    k_BSKQ: Float[Array, "B S K Q"],
    v_BSKQ: Float[Array, "B S K Q"],
    positions_BL: Int[Array, "B L"],
    window: int | None = None,
) -> Float[Array, "B L H Q"]:
    """Attention of queries at `positions_BL` to the cache's slots up to their own position, that one included.

    Slots beyond a query's position may hold anything: what is left of padding, or of an earlier request.
    """
    slots_1S = jnp.arange(k_BSKQ.shape[1])[None]
    mask_BLS = visible(positions_BL, slots_1S, window)
    return jax.nn.dot_product_attention(q_BLHQ, k_BSKQ, v_BSKQ, mask=mask_BLS[:, None], implementation="xla")
