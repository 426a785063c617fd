"""One update: state and batch in, state and metrics out. Pure, and all of it is here.

B rows of an update, M microbatches, L positions.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from alpaca_jax.model.definition import Definition, Parameters
from alpaca_jax.training.loss import summed_loss
from alpaca_jax.training.state import TrainState

Batch = Mapping[str, jax.Array]


def train_step(
    definition: Definition,
    optimiser: optax.GradientTransformation,
    config: ConfigDict,
    state: TrainState,
    batch: Batch,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Loss, gradient and update.

    Gradients are sums over tokens, added up over the microbatches in float32 and divided once by the number of trained
    tokens in the whole batch: a mean of means would weigh tokens by the company they keep.

    Args:
      definition: the model.
      optimiser: gradients to updates.
      config: `model.compute_dtype`, `model.loss_chunk` and `train.microbatches` are used.
      state: donated by the caller.
      batch: the five arrays of packed rows, [B, L] each.

    Returns:
      The next state, and `loss` (nats a trained token), `grad_norm` (before clipping), `target_tokens` (trained),
      `tokens` (all but padding) and `attended` (pairs of a token and one that it sees: what attention costs).
    """

    def microbatch_loss(parameters: Parameters, rows: Batch) -> tuple[jax.Array, jax.Array]:
        working_copy = jax.tree.map(lambda p: p.astype(config.model.compute_dtype), parameters)
        return summed_loss(definition.bind(working_copy), rows, config.model.loss_chunk)

    def accumulate(sums: tuple, rows: Batch) -> tuple[tuple, None]:
        value_and_grad = jax.value_and_grad(microbatch_loss, has_aux=True)
        (loss, count), gradient = value_and_grad(state.parameters, rows)
        return jax.tree.map(jnp.add, sums, (loss, count, gradient)), None

    zeros = (jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.parameters))
    sums, _ = jax.lax.scan(accumulate, zeros, split_microbatches(batch, config.train.microbatches))
    loss_sum, count, gradient_sum = sums

    denominator = jnp.maximum(count, 1.0)  # a batch without a trained token has the gradient 0, not 0/0
    gradient = jax.tree.map(lambda g: g / denominator, gradient_sum)
    updates, moments = optimiser.update(gradient, state.optimiser, state.parameters)
    parameters = optax.apply_updates(state.parameters, updates)

    in_segment = batch["segment_ids"] > 0
    seen = batch["positions"] + 1
    if definition.config.sliding_window is not None:
        seen = jnp.minimum(seen, definition.config.sliding_window)
    metrics = {
        "loss": loss_sum / denominator,
        "grad_norm": optax.tree.norm(gradient),
        "target_tokens": count,
        "tokens": jnp.sum(in_segment),
        "attended": jnp.sum(jnp.where(in_segment, seen, 0), dtype=jnp.float32),
    }
    return TrainState(state.step + 1, parameters, moments), metrics


def split_microbatches(batch: Batch, microbatches: int) -> Batch:
    """[B, L] to [M, B/M, L]; row b goes to microbatch b mod M, so that each takes as many rows from every device."""
    return {
        name: jnp.moveaxis(rows.reshape(rows.shape[0] // microbatches, microbatches, *rows.shape[1:]), 1, 0)
        for name, rows in batch.items()
    }


def evaluation_step(
    definition: Definition, config: ConfigDict, parameters: Parameters, batch: Batch
) -> tuple[jax.Array, jax.Array]:
    """Summed loss over a batch's trained tokens, and their number."""
    working_copy = jax.tree.map(lambda p: p.astype(config.model.compute_dtype), parameters)
    return summed_loss(definition.bind(working_copy), batch, config.model.loss_chunk)
