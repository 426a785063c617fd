"""The choice of the next token.

B batch, V padded vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32, Key

from alpaca_jax.support.errors import UserError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; the defaults are those of the Alpaca demo.

    Attributes:
      temperature: divides the logits; 0 takes the likeliest token.
      top_p: tokens are drawn from the smallest set with at least this probability (nucleus sampling, Holtzman et al.
        2020, https://arxiv.org/abs/1904.09751).
      max_new_tokens: at most so many tokens are made, the end token counted.
      seed: of the draws; prompt i of a call draws from (seed, i) alone, whatever stands beside it.

    Raises:
      UserError: a value out of range.
    """

    temperature: float = 0.7
    top_p: float = 0.9
    max_new_tokens: int = 600
    seed: int = 0

    def __post_init__(self):
        checks = {
            "temperature": (0 <= self.temperature <= 100, "a number from 0 to 100"),
            "top_p": (0 < self.top_p <= 1, "a number above 0, at most 1"),
            "max_new_tokens": (1 <= self.max_new_tokens <= 1_000_000, "a whole number from 1 to 1,000,000"),
            "seed": (0 <= self.seed < 2**32, "a whole number from 0 to 4,294,967,295"),
        }
        for name, (holds, expected) in checks.items():
            if not holds:
                raise UserError(f"--{name}", expected=expected, found=str(getattr(self, name)), remedy="correct it")


def sample(
    logits_BV: Float32[Array, "B V"], keys_B: Key[Array, "B"], temperature: float, top_p: float
) -> Int32[Array, "B"]:
    """The next token of each row.

    Args:
      logits_BV: scores.
      keys_B: one random key a row.
      temperature: as in `Sampling`; a static number.
      top_p: as in `Sampling`; a static number.
    """
    if temperature == 0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    logits_BV = logits_BV / temperature
    if top_p < 1:
        logits_BV = jnp.where(_in_nucleus(logits_BV, top_p), logits_BV, -jnp.inf)
    return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)


def _in_nucleus(logits_BV: Array, top_p: float) -> Array:
    order_BV = jnp.argsort(-logits_BV, axis=-1)
    sorted_BV = jax.nn.softmax(jnp.take_along_axis(logits_BV, order_BV, axis=-1), axis=-1)
    # A token stays if those likelier than it hold less than top_p together; so the likeliest always stays.
    keep_sorted_BV = jnp.cumsum(sorted_BV, axis=-1) - sorted_BV < top_p
    rows_B1 = jnp.arange(logits_BV.shape[0])[:, None]
    return jnp.zeros_like(keep_sorted_BV).at[rows_B1, order_BV].set(keep_sorted_BV)
