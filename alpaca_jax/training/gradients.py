"""The gradient of a batch as an exact sum over its trained tokens, in as many microbatches as memory asks for.

B rows of an update, M microbatches, L positions.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from alpaca_jax.model.definition import Definition, Parameters
from alpaca_jax.training.loss import summed_loss
from alpaca_jax.training.precision import cast

Batch = Mapping[str, jax.Array]


def summed_gradient(
    definition: Definition, config: ConfigDict, parameters: Parameters, batch: Batch
) -> tuple[jax.Array, jax.Array, Parameters]:
    """Loss and gradient, both summed over the trained tokens of the whole batch, and the number of these.

    Args:
      definition: the model.
      config: `model.compute_dtype`, `model.loss_chunk` and `train.microbatches` are used.
      parameters: of any floating type.
      batch: the five arrays of packed rows, [B, L] each.

    Returns:
      The loss in nats, the number of trained tokens, and the gradient: float32 where microbatches are added up, else
      in the type of the arithmetic, in which it arises.
    """

    def loss_of(working_copy: Parameters, rows: Batch) -> tuple[jax.Array, jax.Array]:
        return summed_loss(definition.bind(working_copy), rows, config.model.loss_chunk)

    def layer_by_layer(parameters: Parameters, rows: Batch) -> tuple[jax.Array, jax.Array]:
        lowered = {name: cast(part, config.model.compute_dtype) for name, part in parameters.items()}
        return loss_of(lowered | {"layers": parameters["layers"]}, rows)

    if config.train.microbatches == 1:
        working_copy = cast(parameters, config.model.compute_dtype)
        (loss, count), gradient = jax.value_and_grad(loss_of, has_aux=True)(working_copy, batch)
        return loss, count, gradient

    # Whole gradients beside their sum would be two more buffers of the model's size. The backward pass adds each
    # layer's share into the sum as it comes by (https://docs.jax.dev/en/latest/301/refs.html), for which the weights
    # stay float32, as the sum is, until their layer takes them up.
    masters = cast(parameters, "float32")
    gradient_sum = jax.tree.map(lambda p: jax.new_ref(jnp.zeros_like(p)), masters)

    def accumulate(sums: tuple[jax.Array, jax.Array], rows: Batch) -> tuple[tuple[jax.Array, jax.Array], None]:
        backward: Any
        loss, backward, count = jax.vjp(lambda p: layer_by_layer(p, rows), masters, has_aux=True)
        backward.with_refs(gradient_sum)(jnp.ones_like(loss))
        return (sums[0] + loss, sums[1] + count), None

    zeros = (jnp.zeros(()), jnp.zeros(()))
    (loss, count), _ = jax.lax.scan(accumulate, zeros, split_microbatches(batch, config.train.microbatches))
    return loss, count, jax.tree.map(jax.freeze, gradient_sum)


def split_microbatches(batch: Batch, microbatches: int) -> Batch:
    """[B, L] to [M, B/M, L]; row b goes to microbatch b mod M, so that each takes as many rows from every device."""
    return {
        name: jnp.moveaxis(rows.reshape(rows.shape[0] // microbatches, microbatches, *rows.shape[1:]), 1, 0)
        for name, rows in batch.items()
    }
