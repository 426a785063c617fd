"""A fused kernel held against the definition of attention on the device at hand, before a run trusts it.

Kernels are compiled for a chip by libraries of many versions; one that is wrong there, as by seeing the next segment,
would train silently wrong.

B batch, L positions, H heads, K key-value heads, Q head dimension.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alpaca_jax.model.attention_choice import Choice, Need
from alpaca_jax.model.attention_kernels import attention_over
from alpaca_jax.support.errors import UserError

_ROWS, _LONGEST = 2, 1024
# A bfloat16 has 8 significant bits: rounding is wrong by at most 2^-9 of a number, and what attention rounds (queries,
# weights, results, and as many again in the gradients) adds up to less than 1% of a token's vector. A token that sees a
# place too much or too few is wrong by tens of percent.
TOLERANCE = 0.03


def check_attention(choice: Choice) -> float:
    """Compares values and gradients of the first and the last key-value head's queries, on one made batch of all heads.

    Its rows hold several segments and padding. It takes half a second, and what the kernel takes to compile.

    Args:
      choice: the kernel, and the heads, window and type that it is for; rows are cut to 1,024.

    Returns:
      The largest error of a token, as a share of its vector.

    Raises:
      UserError: it is above what the type explains, or not a number.
    """
    need, device = choice.need, jax.local_devices()[0]
    *numbers, segments = _made_batch(need)
    inputs = [jax.device_put(x.astype(need.dtype), device) for x in numbers]
    found = _values_and_gradients(choice, *inputs, jax.device_put(segments, device))
    of_queries, of_keys = _heads_by_hand(need)
    heads = (of_queries, of_queries, of_keys, of_keys)
    q, k, v, gradient = (
        x[:, :, some] for x, some in zip(numbers, (of_queries, of_keys, of_keys, of_queries), strict=True)
    )
    wanted = _by_hand(need, q, k, v, gradient, segments)
    errors = [
        _error(np.asarray(mine[:, :, some], np.float32), exact)
        for mine, some, exact in zip(found, heads, wanted, strict=True)
    ]
    if all(error <= TOLERANCE for error in errors):
        return max(errors)
    names = ("values", "d/dq", "d/dk", "d/dv")
    raise UserError(
        f"attention kernel {choice.kernel.name!r} on {device.device_kind}",
        expected=f"what attention is, to {TOLERANCE:.1%} of a token's vector",
        found=", ".join(f"{name} {error:.1%}" for name, error in zip(names, errors, strict=True)) + " off",
        remedy="set --config.model.attention=xla",
    )


def _made_batch(need: Need) -> tuple[np.ndarray, ...]:
    """Queries, keys, values, a gradient of the values (float32 numbers that the type holds exactly), segment ids."""
    random = np.random.default_rng(0)
    length, model = min(need.seq_len, _LONGEST), need.model
    rounded = jnp.dtype(need.dtype)
    heads = (model.num_heads, model.num_kv_heads, model.num_kv_heads, model.num_heads)
    arrays = [
        random.standard_normal((_ROWS, length, number, model.head_dim), np.float32).astype(rounded).astype(np.float32)
        for number in heads
    ]
    # One row with padding at its end, one without; boundaries that are no multiple of any kernel's block.
    ends = np.cumsum([1, 150, 203, 77, 7, 131, 193])
    segments = 1 + np.searchsorted(ends, np.arange(length), "right")
    segments = np.stack([np.where(np.arange(length) < length - length // 9, segments, 0), segments])
    if need.most_segments:
        segments = np.minimum(segments, need.most_segments)
    return *arrays, segments.astype(np.int32)


def _values_and_gradients(choice: Choice, *inputs: jax.Array) -> tuple[jax.Array, ...]:
    @jax.jit
    def run(q: jax.Array, k: jax.Array, v: jax.Array, gradient: jax.Array, segments: jax.Array) -> Any:
        attend = attention_over(choice.kernel, segments, choice.need.model.sliding_window)
        values, backward = jax.vjp(attend, q, k, v)
        return values, *backward(gradient)

    return run(*inputs)


def _heads_by_hand(need: Need) -> tuple[np.ndarray, np.ndarray]:
    """Those heads of queries, and of keys, that are worked out by hand: of the first and of the last key-value head."""
    of_keys = np.unique([0, need.model.num_kv_heads - 1])
    group = need.model.num_heads // need.model.num_kv_heads
    return (of_keys[:, None] * group + np.arange(group)).ravel(), of_keys


def _by_hand(
    need: Need, q_BLHQ: np.ndarray, k_BLKQ: np.ndarray, v_BLKQ: np.ndarray, d_BLHQ: np.ndarray, ids_BL: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Values and gradients from the definition, a segment at a time: nothing to compile, and no mask to share."""
    group, scale = need.model.num_heads // need.model.num_kv_heads, need.model.head_dim**-0.5
    o, dq, dk, dv = (np.zeros_like(x) for x in (q_BLHQ, q_BLHQ, k_BLKQ, v_BLKQ))
    for row, ids in enumerate(ids_BL):
        for segment in np.unique(ids):
            at = row, ids == segment
            q, k, v, d = (x[at].swapaxes(0, 1) for x in (q_BLHQ, k_BLKQ, v_BLKQ, d_BLHQ))  # [heads, n, Q]
            k, v = np.repeat(k, group, axis=0), np.repeat(v, group, axis=0)
            distance = np.subtract.outer(np.arange(q.shape[1]), np.arange(q.shape[1]))
            hidden = (distance < 0) | (distance >= (need.model.sliding_window or distance.size))
            scores = np.where(hidden, -np.inf, q @ k.swapaxes(1, 2) * scale)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            values = weights @ v
            # The softmax's own derivative: p (dp − Σ p dp), the sum being d · o.
            d_scores = weights * (d @ v.swapaxes(1, 2) - (d * values).sum(-1, keepdims=True)) * scale
            o[at], dq[at] = values.swapaxes(0, 1), (d_scores @ k).swapaxes(0, 1)
            for whole, part in ((dk, d_scores.swapaxes(1, 2) @ q), (dv, weights.swapaxes(1, 2) @ d)):
                whole[at] = part.reshape(-1, group, *part.shape[1:]).sum(1).swapaxes(0, 1)
    return o, dq, dk, dv


def _error(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest error of a token's vector, all heads together; against the mean where a vector is smaller."""
    wrong, size = (np.linalg.norm(x.reshape(*x.shape[:2], -1), axis=-1) for x in (found - wanted, wanted))
    return float(np.max(wrong / np.maximum(size, np.mean(size))))
