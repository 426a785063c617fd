"""AdamW (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101) with the recipe's values, and its schedule."""

import math
from collections.abc import Mapping

import jax
import optax
from ml_collections import ConfigDict

from alpaca_jax.model.definition import Parameters

# Of the original: https://github.com/tatsu-lab/stanford_alpaca
_RECIPE_EXAMPLES, _RECIPE_LEARNING_RATE = 128, 2e-5


def num_updates(config: ConfigDict, rows: int) -> int:
    """Updates in the whole schedule: the epochs over `rows` packed rows, in batches of `config.train.batch_rows`."""
    return max(1, math.ceil(config.train.epochs * rows / config.train.batch_rows))


def learning_rate_schedule(config: ConfigDict, updates: int) -> optax.Schedule:
    """Update number (from 0) to learning rate; linear warm-up, then cosine or linear to 0, or constant.

    The warm-up takes ceil(warmup_fraction × updates), as transformers' trainer does.
    """
    peak = config.optimizer.learning_rate
    warmup = math.ceil(config.optimizer.warmup_fraction * updates)
    rest = max(1, updates - warmup)
    after = {
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
        "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
        "constant": lambda: optax.constant_schedule(peak),
    }[config.optimizer.schedule]()
    return optax.join_schedules([optax.linear_schedule(0.0, peak, max(1, warmup)), after], [warmup])


def batch_rules(config: ConfigDict, seq_len: int, counts: Mapping[str, int]) -> list[str]:
    """What an update holds, and what learning rate the rules of thumb would give for it: told, never applied.

    The published recipe is 2e-5 for 128 examples. Scaled to another batch by the linear rule, made for SGD (Goyal et
    al. 2017, https://arxiv.org/abs/1706.02677), or by the square root, as suits Adam (Malladi et al. 2022,
    https://arxiv.org/abs/2205.10287).

    Args:
      config: `train.batch_rows` and `optimizer.learning_rate` are used.
      seq_len: the length of the rows.
      counts: of the data: `rows`, and in them `kept` records and `tokens`.
    """
    rows = config.train.batch_rows
    examples, tokens = (rows * counts[name] / counts["rows"] for name in ("kept", "tokens"))
    ratio = examples / _RECIPE_EXAMPLES
    return [
        f"an update: {rows} rows of {seq_len} ≈ {examples:,.0f} examples (the original's: {_RECIPE_EXAMPLES}), "
        f"{tokens:,.0f} tokens",
        f"learning rate: {config.optimizer.learning_rate:.3g}; the original's {_RECIPE_LEARNING_RATE:.3g}, scaled to "
        f"this batch: {_RECIPE_LEARNING_RATE * ratio**0.5:.3g} by the square root, "
        f"{_RECIPE_LEARNING_RATE * ratio:.3g} linearly",
    ]


def make_optimiser(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Gradient clipping by global norm, then AdamW, without decay on norms and biases."""
    return optax.chain(
        optax.clip_by_global_norm(config.optimizer.clip_norm),
        optax.adamw(
            schedule,
            b1=config.optimizer.b1,
            b2=config.optimizer.b2,
            eps=config.optimizer.eps,
            weight_decay=config.optimizer.weight_decay,
            mu_dtype=config.optimizer.first_moment_dtype,
            mask=_is_matrix,
        ),
    )


def _is_matrix(parameters: Parameters) -> Parameters:
    return jax.tree_util.tree_map_with_path(lambda path, _: not path[-1].key.endswith(("scale", "bias")), parameters)
