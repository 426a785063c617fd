"""The choice of the next token, for rows that each have their own settings.

B batch, V padded vocabulary, K candidates, T best tokens told of.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, Key

from alpaca_jax.generation.settings import MOST_LOGPROBS

# What nearly always holds the whole nucleus; only a row whose nucleus is larger needs its vocabulary sorted.
_CANDIDATES = 512


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Controls:
    """What `Sampling` says, for each row of a batch; see there. `tells` is whether a row wants probabilities told."""

    # Any: JAX rebuilds the class with whatever takes an array's place in a tree.
    temperature_B: Any  # float32
    top_p_B: Any  # float32
    top_k_B: Any  # int32
    penalty_B: Any  # float32
    tells_B: Any  # bool


def penalise(
    logits_BV: Float32[Array, "B V"], seen_BV: Bool[Array, "B V"], penalty_B: Float32[Array, "B"]
) -> Float32[Array, "B V"]:
    """The scores of tokens that a row has, lowered by its repetition penalty."""
    penalty_B1 = penalty_B[:, None]
    lowered_BV = jnp.where(logits_BV > 0, logits_BV / penalty_B1, logits_BV * penalty_B1)
    return jnp.where(seen_BV, lowered_BV, logits_BV)


def choose(logits_BV: Float32[Array, "B V"], keys_B: Key[Array, "B"], controls: Controls) -> Int32[Array, "B"]:
    """The next token of each row; a row's depends on its own scores, key and settings, and on nothing else.

    Args:
      logits_BV: scores, penalties and the watermark already in them.
      keys_B: one random key a row.
      controls: the rows' settings.
    """
    best_BK, ids_BK = jax.lax.top_k(logits_BV, min(_CANDIDATES, logits_BV.shape[1]))

    def draw() -> Array:
        warm_B = controls.temperature_B > 0
        divisor_B1 = jnp.where(warm_B, controls.temperature_B, 1.0)[:, None]
        scaled_BV = logits_BV / divisor_B1
        kept_BK, covered_B = _nucleus(best_BK / divisor_B1, jax.nn.logsumexp(scaled_BV, axis=-1), controls)
        places_B1 = _draw(keys_B, jnp.where(kept_BK, best_BK / divisor_B1, -jnp.inf))[:, None]
        few_B = jnp.take_along_axis(ids_BK, places_B1, axis=1)[:, 0]
        short_B = warm_B & ~covered_B
        all_B = jax.lax.cond(jnp.any(short_B), lambda: _draw(keys_B, _kept(scaled_BV, controls)), lambda: few_B)
        return jnp.where(warm_B, jnp.where(covered_B, few_B, all_B), ids_BK[:, 0])

    return jax.lax.cond(jnp.any(controls.temperature_B > 0), draw, lambda: ids_BK[:, 0])


def _nucleus(best_BK: Array, total_B: Array, controls: Controls) -> tuple[Array, Array]:
    """Which of the K likeliest tokens may be drawn, and whether no other may.

    Args:
      best_BK: their scores, in falling order.
      total_B: the logarithm of the sum of all tokens' exponentials.
      controls: the rows' settings.
    """
    count = best_BK.shape[1]
    limit_B1 = controls.top_k_B[:, None]
    few_B1 = (limit_B1 > 0) & (limit_B1 <= count)
    in_k_BK = ~few_B1 | (jnp.arange(count) < limit_B1)
    inner_B1 = jax.nn.logsumexp(jnp.where(in_k_BK, best_BK, -jnp.inf), axis=-1, keepdims=True)
    shares_BK = jnp.where(in_k_BK, jnp.exp(best_BK - jnp.where(few_B1, inner_B1, total_B[:, None])), 0.0)
    # A token stays if those likelier than it hold less than top_p together; so the likeliest always stays.
    up_to_BK = jnp.cumsum(shares_BK, axis=-1)
    kept_BK = in_k_BK & (up_to_BK - shares_BK < controls.top_p_B[:, None])
    whole_B = (controls.top_p_B < 1) & (limit_B1[:, 0] == 0) & (up_to_BK[:, -1] >= controls.top_p_B)
    return kept_BK, few_B1[:, 0] | whole_B


def _kept(scaled_BV: Array, controls: Controls) -> Array:
    """The scores of the whole vocabulary, -inf for tokens that may not be drawn."""
    cuts_B = (controls.top_p_B < 1) | (controls.top_k_B > 0)

    def cut() -> Array:
        order_BV = jnp.argsort(-scaled_BV, axis=-1)
        sorted_BV = jnp.take_along_axis(scaled_BV, order_BV, axis=-1)
        limit_B1 = jnp.where(controls.top_k_B > 0, controls.top_k_B, scaled_BV.shape[1])[:, None]
        in_k_BV = jnp.arange(scaled_BV.shape[1]) < limit_B1
        shares_BV = jax.nn.softmax(jnp.where(in_k_BV, sorted_BV, -jnp.inf), axis=-1)
        kept_BV = in_k_BV & (jnp.cumsum(shares_BV, axis=-1) - shares_BV < controls.top_p_B[:, None])
        rows_B1 = jnp.arange(scaled_BV.shape[0])[:, None]
        inside_BV = jnp.zeros_like(kept_BV).at[rows_B1, order_BV].set(kept_BV)
        return jnp.where(inside_BV | ~cuts_B[:, None], scaled_BV, -jnp.inf)

    return jax.lax.cond(jnp.any(cuts_B), cut, lambda: scaled_BV)


def _draw(keys_B: Array, scores_BX: Array) -> Array:
    return jax.vmap(jax.random.categorical)(keys_B, scores_BX).astype(jnp.int32)


def log_probabilities(
    logits_BV: Float32[Array, "B V"], tokens_B: Int32[Array, "B"]
) -> Mapping[str, Float32[Array, "B"] | Float32[Array, "B T"] | Int32[Array, "B T"]]:
    """The logarithms of the probabilities of the given tokens (`chosen`), and of the likeliest (`best`, with `ids`)."""
    total_B1 = jax.nn.logsumexp(logits_BV, axis=-1, keepdims=True)
    best_BT, ids_BT = jax.lax.top_k(logits_BV, min(MOST_LOGPROBS, logits_BV.shape[1]))
    chosen_B1 = jnp.take_along_axis(logits_BV, tokens_B[:, None], axis=1) - total_B1
    return {"chosen": chosen_B1[:, 0], "best": best_BT - total_B1, "ids": ids_BT}
