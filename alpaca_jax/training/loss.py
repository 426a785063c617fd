"""Cross-entropy as an exact sum over the trained targets, so that it is the same however rows are packed or split.

B rows, L positions, D hidden size, V padded vocabulary, C positions of a chunk.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Shaped

from alpaca_jax.model.llama import Llama


def summed_loss(
    model: Llama, batch: Mapping[str, Shaped[Array, "B L"]], chunk: int
) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
    """-Σ log p(target) over the trained targets, in nats, and their number.

    Args:
      model: with its parameters bound.
      batch: `tokens`, `targets`, `loss_mask`, `segment_ids`, `positions`.
      chunk: positions of a row whose logits exist at once; memory for B × chunk × V numbers.
    """
    hidden_BLD = model(batch["tokens"], batch["positions"], batch["segment_ids"])
    targets_BL, mask_BL = batch["targets"], batch["loss_mask"]
    length = targets_BL.shape[1]
    count = jnp.sum(mask_BL, dtype=jnp.float32)
    if length <= chunk:
        return _cross_entropy(model, hidden_BLD, targets_BL, mask_BL), count

    chunks = -(-length // chunk)
    pad = chunks * chunk - length

    def split(array_BL: Array) -> Array:
        """[B, L, …] to [chunks, B, C, …], padded at the end with zeros, which no mask counts."""
        padded = jnp.pad(array_BL, [(0, 0), (0, pad)] + [(0, 0)] * (array_BL.ndim - 2))
        return jnp.moveaxis(padded.reshape(padded.shape[0], chunks, chunk, *padded.shape[2:]), 1, 0)

    @jax.checkpoint  # the backward pass makes each chunk's logits again, so that they never exist together
    def add(total: Array, part: tuple[Array, Array, Array]) -> tuple[Array, None]:
        return total + _cross_entropy(model, *part), None

    total, _ = jax.lax.scan(add, jnp.zeros((), jnp.float32), (split(hidden_BLD), split(targets_BL), split(mask_BL)))
    return total, count


def _cross_entropy(model: Llama, hidden_BCD: Array, targets_BC: Array, mask_BC: Array) -> Array:
    logits_BCV = model.logits(hidden_BCD)
    chosen_BC = jnp.take_along_axis(logits_BCV, targets_BC[..., None], axis=-1)[..., 0]
    loss_BC = jax.nn.logsumexp(logits_BCV, axis=-1) - chosen_BC
    return jnp.sum(jnp.where(mask_BC, loss_BC, 0.0))
