"""Attention over packed rows and over a key-value cache.

`visible` alone says which token sees which; the two functions below say where the tokens lie and apply it. A kernel
that works the mask out by itself (from positions, segments and the window) can take the place of either.

B batch, L queries, S keys, H heads, K key-value heads, G heads of each of these, Q head dimension, C blocks of s slots.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from alpaca_jax.model.products import factors
from alpaca_jax.model.rematerialisation import keep

# Slots of a cache that are summed over together; caches of the engine have a power of two of such blocks.
SLOT_BLOCK = 128

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
    blocks: int = 1,
) -> Float[Array, "B L H Q"]:
    """Causal attention in which a token sees only its own segment: packed examples never meet.

    The softmax runs in float32; the result has the type of the queries.

    Args:
      q_BLHQ: queries.
      k_BLKQ: keys.
      v_BLKQ: values.
      segment_ids_BL: a segment's tokens lie together.
      window: how many places a token sees, its own counted; None for all of its segment before it.
      blocks: of queries, each held against the keys up to its own end alone: of 4 blocks, 10 of 16 parts of all pairs.
    """
    # Places in the row do as well as positions: within a segment they differ by a constant.
    places_1L = jnp.arange(segment_ids_BL.shape[1])[None]
    mask_BLS = visible(places_1L, places_1L, window, (segment_ids_BL, segment_ids_BL))
    batch, length, heads, head_dim = q_BLHQ.shape
    kv_heads = k_BLKQ.shape[2]
    q_BKGLQ = q_BLHQ.reshape(batch, length, kv_heads, heads // kv_heads, head_dim).transpose(0, 2, 3, 1, 4)
    k_BKSQ, v_BKSQ = k_BLKQ.swapaxes(1, 2), v_BLKQ.swapaxes(1, 2)
    size = -(-length // blocks)
    heads_BKGLQ = jnp.concatenate(
        [
            _attend(q_BKGLQ[..., start:end, :], k_BKSQ[:, :, :end], v_BKSQ[:, :, :end], mask_BLS[:, start:end, :end])
            for start in range(0, length, size)
            for end in [min(start + size, length)]
        ],
        axis=3,
    )
    return heads_BKGLQ.transpose(0, 3, 1, 2, 4).reshape(q_BLHQ.shape)


@jax.custom_vjp
def _attend(q_BKGLQ: Array, k_BKSQ: Array, v_BKSQ: Array, mask_BLS: Array) -> Array:
    """softmax(q k / √Q) v. Its gradient makes the weights again from their normaliser, as FlashAttention's does.

    (Dao et al. 2022, https://arxiv.org/abs/2205.14135, section 3.1 and appendix B.4.) Nothing of the scores' size is
    kept, nor turned over, which is what a CPU would spend most of the time of attention on.
    """
    return _attend_forward(q_BKGLQ, k_BKSQ, v_BKSQ, mask_BLS)[0]


def _attend_forward(q_BKGLQ: Array, k_BKSQ: Array, v_BKSQ: Array, mask_BLS: Array) -> tuple[Array, tuple[Array, ...]]:
    scores_BKGLS = _masked_scores(q_BKGLQ, k_BKSQ, mask_BLS)
    # Nothing is ever hidden from itself, so the largest score is a number.
    largest_BKGL1 = scores_BKGLS.max(axis=-1, keepdims=True)
    weights_BKGLS = jnp.exp(scores_BKGLS - largest_BKGL1)
    total_BKGL1 = weights_BKGLS.sum(axis=-1, keepdims=True)
    sums_BKGLQ = _einsum("BKGLS,BKSQ->BKGLQ", weights_BKGLS.astype(v_BKSQ.dtype), v_BKSQ)
    heads_BKGLQ = keep((sums_BKGLQ / total_BKGL1).astype(q_BKGLQ.dtype))
    normaliser_BKGL1 = keep(largest_BKGL1 + jnp.log(total_BKGL1))
    return heads_BKGLQ, (q_BKGLQ, k_BKSQ, v_BKSQ, mask_BLS, heads_BKGLQ, normaliser_BKGL1)


def _attend_backward(kept: tuple[Array, ...], d_heads_BKGLQ: Array) -> tuple[Array, Array, Array, None]:
    q_BKGLQ, k_BKSQ, v_BKSQ, mask_BLS, heads_BKGLQ, normaliser_BKGL1 = kept
    weights_BKGLS = jnp.exp(_masked_scores(q_BKGLQ, k_BKSQ, mask_BLS) - normaliser_BKGL1)
    d_weights_BKGLS = _einsum("BKGLQ,BKSQ->BKGLS", d_heads_BKGLQ, v_BKSQ)
    mean_BKGL1 = jnp.sum(d_heads_BKGLQ.astype(jnp.float32) * heads_BKGLQ, axis=-1, keepdims=True)
    d_scores_BKGLS = weights_BKGLS * (d_weights_BKGLS - mean_BKGL1) * q_BKGLQ.shape[-1] ** -0.5
    d_scores_BKGLS = d_scores_BKGLS.astype(q_BKGLQ.dtype)
    d_q_BKGLQ = _einsum("BKGLS,BKSQ->BKGLQ", d_scores_BKGLS, k_BKSQ)
    d_k_BKSQ = _sum_over_queries(q_BKGLQ, d_scores_BKGLS)
    d_v_BKSQ = _sum_over_queries(d_heads_BKGLQ, weights_BKGLS.astype(q_BKGLQ.dtype))
    return d_q_BKGLQ.astype(q_BKGLQ.dtype), d_k_BKSQ.astype(k_BKSQ.dtype), d_v_BKSQ.astype(v_BKSQ.dtype), None


_attend.defvjp(_attend_forward, _attend_backward)


def _masked_scores(q_BKGLQ: Array, k_BKSQ: Array, mask_BLS: Array) -> Array:
    scores_BKGLS = _einsum("BKGLQ,BKSQ->BKGLS", q_BKGLQ, k_BKSQ) * q_BKGLQ.shape[-1] ** -0.5
    return jnp.where(mask_BLS[:, None, None], scores_BKGLS, -jnp.inf)


def _sum_over_queries(of_queries_BKGLQ: Array, of_pairs_BKGLS: Array) -> Array:
    """[B, K, S, Q]; made as [B, K, Q, S] and then turned over, which is less than to turn over what is of pairs."""
    queries_and_keys = (((2, 3), (2, 3)), ((0, 1), (0, 1)))
    a, b = factors(of_queries_BKGLQ, of_pairs_BKGLS)
    sums_BKQS = jax.lax.dot_general(a, b, queries_and_keys, preferred_element_type=jnp.float32)
    # The barrier keeps the compiler from choosing the other way round.
    return jax.lax.optimization_barrier(sums_BKQS).swapaxes(2, 3)


def _einsum(subscripts: str, a: Array, b: Array) -> Array:
    return jnp.einsum(subscripts, *factors(a, b), preferred_element_type=jnp.float32)


def cached_attention(
    q_BLHQ: Float[Array, "B L H Q"],
    k_BKQS: Float[Array, "B K Q S"],
    v_BKSQ: Float[Array, "B K S Q"],
    positions_BL: Int[Array, "B L"],
    window: int | None = None,
) -> Float[Array, "B L H Q"]:
    """Attention of queries at `positions_BL` to the cache's slots up to their own position, that one included.

    Slots beyond a query's position may hold anything finite: what is left of padding, or of an earlier request. Sums
    run over blocks of slots and then over the blocks, so that a longer cache, whose further blocks add zeros, gives
    the same bits.
    """
    batch, length, heads, head_dim = q_BLHQ.shape
    _, kv_heads, _, slots = k_BKQS.shape
    blocks = slots // SLOT_BLOCK if slots % SLOT_BLOCK == 0 else 1
    q_BKGLQ = q_BLHQ.reshape(batch, length, kv_heads, heads // kv_heads, head_dim).transpose(0, 2, 3, 1, 4)
    scores = jnp.einsum("BKGLQ,BKQS->BKGLS", q_BKGLQ, k_BKQS, preferred_element_type=jnp.float32) * head_dim**-0.5
    mask_BLS = visible(positions_BL, jnp.arange(slots)[None], window)
    scores = jnp.where(mask_BLS[:, None, None], scores, -jnp.inf)
    # Nothing is ever hidden from itself, so the largest score is a number.
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = weights.reshape(*weights.shape[:-1], blocks, slots // blocks)  # BKGLCs
    v_BKCsQ = v_BKSQ.reshape(batch, kv_heads, blocks, slots // blocks, head_dim)
    totals_BKGL = weights.sum(axis=-1).sum(axis=-1)
    parts = jnp.einsum(
        "BKGLCs,BKCsQ->BKCGLQ", weights.astype(v_BKSQ.dtype), v_BKCsQ, preferred_element_type=jnp.float32
    )
    heads_BKGLQ = parts.sum(axis=2) / totals_BKGL[..., None]
    return heads_BKGLQ.transpose(0, 3, 1, 2, 4).reshape(q_BLHQ.shape).astype(q_BLHQ.dtype)
