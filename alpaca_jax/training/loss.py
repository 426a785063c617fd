"""Cross-entropy as an exact sum over the trained targets, so that it is the same however rows are packed or split.

The head is applied to trained targets alone (about half of Alpaca's tokens), some of them at a time: the logits of a
whole batch never exist. Each device works on its own tokens, and the head's gradient is summed over devices once.

B rows, L positions, D hidden size, V padded vocabulary; G groups of tokens, each on devices of its own, T tokens of a
group, C tokens of a chunk.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Shaped

from alpaca_jax.model.llama import Llama
from alpaca_jax.model.products import factors, sum_of_products
from alpaca_jax.parallel.sharding import constrain, group_tokens


def summed_loss(
    model: Llama, batch: Mapping[str, Shaped[Array, "B L"]], chunk: int
) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
    """-Σ log p(target) over the trained targets, in nats, and their number.

    Args:
      model: with its parameters bound.
      batch: `tokens`, `targets`, `loss_mask`, `segment_ids`, `positions`.
      chunk: trained targets of a device whose logits exist at once; memory for chunk × V numbers.
    """
    hidden_BLD = model(batch["tokens"], batch["positions"], batch["segment_ids"])
    hidden_GTD, targets_GT, mask_GT = map(group_tokens, (hidden_BLD, batch["targets"], batch["loss_mask"]))
    chunk = min(chunk, targets_GT.shape[1])
    total = _cross_entropy(chunk, model.config.vocab_size, hidden_GTD, model.unembedding(), targets_GT, mask_GT)
    return total, jnp.sum(batch["loss_mask"], dtype=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _cross_entropy(
    chunk: int, vocab_size: int, hidden_GTD: Array, head_DV: Array, targets_GT: Array, mask_GT: Array
) -> Array:
    """The sum over all groups; its gradient is made on the way forward, while a chunk's logits exist."""
    loss, _ = _forward(chunk, vocab_size, hidden_GTD, head_DV, targets_GT, mask_GT, with_gradient=False)
    return loss


def _forward(
    chunk: int,
    vocab_size: int,
    hidden_GTD: Array,
    head_DV: Array,
    targets_GT: Array,
    mask_GT: Array,
    with_gradient: bool = True,
) -> tuple[Array, tuple[Array, Array] | None]:
    # The trained come first, in their order; then only as many chunks are worked on as the fullest group needs.
    order_GT = jnp.argsort(~mask_GT, axis=1, stable=True)
    trained_G = jnp.sum(mask_GT, axis=1)
    chunks = -(-jnp.max(trained_G) // chunk)
    missing = -mask_GT.shape[1] % chunk
    padded_GT = jnp.pad(order_GT, ((0, 0), (0, missing)))
    head_factor_DV, hidden_factor_GTD = factors(head_DV, hidden_GTD)
    is_padding_V = jnp.arange(head_DV.shape[1]) >= vocab_size

    sums_over_tokens = jax.vmap(lambda a_CD, b_CV: sum_of_products(a_CD, (0,), b_CV, (0,), jnp.float32))

    def work(number: Array, sums: Any) -> Any:
        loss_G, gradient = sums
        places_GC = jax.lax.dynamic_slice_in_dim(padded_GT, number * chunk, chunk, axis=1)
        counts_GC = number * chunk + jnp.arange(chunk) < trained_G[:, None]
        hidden_GCD = jnp.take_along_axis(hidden_factor_GTD, places_GC[..., None], axis=1)
        hidden_GCD = constrain(hidden_GCD, "tokens", "chunk", "activation_embed")
        logits_GCV = jnp.einsum("GCD,DV->GCV", hidden_GCD, head_factor_DV, preferred_element_type=jnp.float32)
        logits_GCV = constrain(jnp.where(is_padding_V, -jnp.inf, logits_GCV), "tokens", "chunk", "activation_vocab")
        logits_GCV = jax.lax.optimization_barrier(logits_GCV)  # made once, not again for each of its uses
        is_target_GCV = jnp.arange(head_DV.shape[1]) == jnp.take_along_axis(targets_GT, places_GC, axis=1)[..., None]
        normaliser_GC = jax.nn.logsumexp(logits_GCV, axis=-1)
        nats_GC = normaliser_GC - jnp.sum(jnp.where(is_target_GCV, logits_GCV, 0.0), axis=-1)
        loss_G += jnp.sum(jnp.where(counts_GC, nats_GC, 0.0), axis=1)
        if not with_gradient:
            return loss_G, gradient
        # ∂nats/∂logits = softmax − one-hot, in the type of the products that it enters.
        d_logits_GCV = jnp.exp(logits_GCV - normaliser_GC[..., None]) - is_target_GCV
        d_logits_GCV = jnp.where(counts_GC[..., None], d_logits_GCV, 0.0).astype(hidden_GCD.dtype)
        d_sorted_GTD, d_head_GDV = gradient
        d_hidden_GCD = jnp.einsum("GCV,DV->GCD", d_logits_GCV, head_factor_DV, preferred_element_type=hidden_GTD.dtype)
        d_hidden_GCD = constrain(d_hidden_GCD, "tokens", "chunk", "activation_embed")
        d_sorted_GTD = jax.lax.dynamic_update_slice_in_dim(d_sorted_GTD, d_hidden_GCD, number * chunk, axis=1)
        d_head_GDV += sums_over_tokens(hidden_GCD, d_logits_GCV)
        return loss_G, (d_sorted_GTD, constrain(d_head_GDV, "tokens", "gathered", "activation_vocab"))

    groups, tokens, size = hidden_GTD.shape
    gradient = None
    if with_gradient:
        # A group's share of the head's gradient stays with it until the end: one sum over devices, not one a chunk.
        d_sorted_GTD = jnp.zeros((groups, tokens + missing, size), hidden_GTD.dtype)
        gradient = (d_sorted_GTD, jnp.zeros((groups, *head_DV.shape), jnp.float32))
    loss_G, gradient = jax.lax.fori_loop(0, chunks, work, (jnp.zeros(groups, jnp.float32), gradient))
    if gradient is not None:
        d_sorted_GTD, d_head_GDV = gradient
        d_hidden_GTD = jnp.take_along_axis(d_sorted_GTD, jnp.argsort(order_GT, axis=1)[..., None], axis=1)
        d_hidden_GTD = constrain(d_hidden_GTD, "tokens", "chunk", "activation_embed")
        gradient = (d_hidden_GTD, jnp.sum(d_head_GDV, axis=0).astype(head_DV.dtype))
    return jnp.sum(loss_G), gradient


def _backward(chunk: int, vocab_size: int, gradient: tuple[Array, Array], scale: Array) -> tuple:
    d_hidden_GTD, d_head_DV = gradient
    return d_hidden_GTD * scale.astype(d_hidden_GTD.dtype), d_head_DV * scale.astype(d_head_DV.dtype), None, None


_cross_entropy.defvjp(_forward, _backward)
