"""One update: state and batch in, state and metrics out. Pure; the gradient's sums are made in `gradients.py`.

B rows of an update, L positions.
"""

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from alpaca_jax.model.definition import Definition, Parameters
from alpaca_jax.training.gradients import Batch, summed_gradient
from alpaca_jax.training.loss import summed_loss
from alpaca_jax.training.precision import cast, kept
from alpaca_jax.training.state import TrainState


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

    Where the loss or the gradient's norm is not finite, weights and optimiser stay as they were, bit for bit, and only
    the count of updates goes on, so that the next batch follows.

    Args:
      definition: the model.
      optimiser: gradients to updates.
      config: all of `model`, and of `train` the seed and the microbatches.
      state: donated by the caller.
      batch: the five arrays of packed rows, [B, L] each.

    Returns:
      The next state, and `loss` (nats a trained token), `grad_norm` (before clipping), `target_tokens` (trained),
      `tokens` (all but padding) and `attended` (pairs of a token and one that it sees: what attention costs).
    """
    with jax.default_matmul_precision(config.model.matmul_precision):
        loss_sum, count, gradient_sum = summed_gradient(definition, config, state.parameters, batch)
    denominator = jnp.maximum(count, 1.0)  # a batch without a trained token has the gradient 0, not 0/0
    gradient = jax.tree.map(lambda g: g.astype(jnp.float32) / denominator, gradient_sum)

    weights = cast(state.parameters, jnp.float32)
    updates, moments = optimiser.update(gradient, state.optimiser, weights)
    weights = optax.apply_updates(weights, updates)
    parameters = kept(weights, config.model.parameter_dtype, config.train.seed, state.step)

    loss, grad_norm = loss_sum / denominator, optax.tree.norm(gradient)
    sound = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    parameters, moments = jax.tree.map(
        lambda new, old: jnp.where(sound, new, old), (parameters, moments), (state.parameters, state.optimiser)
    )

    in_segment = batch["segment_ids"] > 0
    seen = batch["positions"] + 1
    if definition.config.sliding_window is not None:
        seen = jnp.minimum(seen, definition.config.sliding_window)
    metrics = {
        "loss": loss,
        "grad_norm": grad_norm,
        "target_tokens": count,
        "tokens": jnp.sum(in_segment),
        "attended": jnp.sum(jnp.where(in_segment, seen, 0), dtype=jnp.float32),
    }
    return TrainState(state.step + 1, parameters, moments), metrics


def evaluation_step(
    definition: Definition, config: ConfigDict, parameters: Parameters, batch: Batch
) -> tuple[jax.Array, jax.Array]:
    """Summed loss over a batch's trained tokens, and their number."""
    working_copy = cast(parameters, config.model.compute_dtype)
    with jax.default_matmul_precision(config.model.matmul_precision):
        return summed_loss(definition.bind(working_copy), batch, config.model.loss_chunk)
