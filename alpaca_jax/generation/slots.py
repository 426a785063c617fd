"""What the device holds of the answers under way, and the two programs that move them on.

Each row of a batch of fixed size is a slot, in which one answer is made at a time. `admit` puts prompts into slots
without touching the others; `decode` makes one token in every slot, whether an answer is under way there or not, so
that one program serves whatever is running.

B slots, R rows admitted together, P prompt length (a bucket), S cache slots (a bucket), V padded vocabulary,
W tokens that the watermark remembers, T best tokens told of, C positions whose scores are held at one time.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from alpaca_jax.generation.sampling import Controls, choose, log_probabilities, penalise
from alpaca_jax.generation.watermark import Watermark, bias
from alpaca_jax.model.cache import KVCache
from alpaca_jax.model.definition import Definition, Parameters
from alpaca_jax.model.llama import Llama
from alpaca_jax.parallel.sharding import constrain

Told = Mapping[str, Array]  # of `log_probabilities`

_SCORED_TOGETHER = 32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """The state of answers, but for the cache.

    Attributes:
      token_B: the last token of each, not yet in the cache.
      position_B: its place.
      seed_B, draw_B: what the draws start from.
      recent_BW: the last tokens, `token_B` the latest; -1 where there are fewer.
      controls: how the next one is chosen.
    """

    # Any: JAX rebuilds the class with whatever takes an array's place in a tree.
    token_B: Any  # int32
    position_B: Any  # int32
    seed_B: Any  # uint32
    draw_B: Any  # uint32
    recent_BW: Any  # int32
    controls: Controls


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slots:
    """All that the device holds beside the weights; `seen_BV` is which tokens a slot's prompt and answer have."""

    cache: KVCache
    seen_BV: Any  # bool
    rows: Rows

    def laid_out(self) -> "Slots":
        """The same, laid over the mesh in one way, so that every program takes what any other left."""
        rows = jax.tree.map(lambda x: constrain(x, *["gathered"] * x.ndim), self.rows)
        return Slots(self.cache.laid_out(), constrain(self.seen_BV, "gathered", "gathered"), rows)

    def resized(self, slots: int) -> "Slots":
        """The same with a cache for more tokens a slot, or for fewer."""
        return dataclasses.replace(self, cache=self.cache.resized(slots)).laid_out()


def empty_slots(definition: Definition, rows: Rows, cache_slots: int, dtype: jnp.dtype, stacked: bool) -> Slots:
    """Slots in which nothing is under way; `rows` says of what shapes."""
    config, batch = definition.config, rows.token_B.shape[0]
    cache = KVCache.empty(config, batch, cache_slots, dtype, stacked)
    return Slots(cache, jnp.zeros((batch, config.padded_vocab_size), jnp.bool_), rows).laid_out()


def admit(
    definition: Definition,
    parameters: Parameters,
    slots: Slots,
    tokens_RP: Int32[Array, "R P"],
    new: Rows,
    places_R: Int32[Array, "R"],
    tells: bool,
) -> tuple[Slots, Told | None]:
    """Puts prompts into slots.

    Args:
      definition: the model's structure.
      parameters: its weights.
      slots: as they are.
      tokens_RP: the prompts, padded at their ends.
      new: the prompts' rows: the last token and its position among the rest.
      places_R: the slots that they take; one beyond the last for a row that only pads.
      tells: whether the probabilities of the prompts' tokens, the first excepted, are wanted.

    Returns:
      The slots, and what is to be told of token p + 1 at place [:, p]; None where nothing is.
    """
    model = definition.bind(parameters)
    batch, length = tokens_RP.shape
    cache = KVCache.empty(definition.config, batch, length, slots.cache.dtype, slots.cache.stacked)
    positions_RP = jnp.broadcast_to(jnp.arange(length), (batch, length))
    hidden_RPD, cache = model.extend(tokens_RP, positions_RP, cache)
    # A place beyond the last is dropped, and so is the vocabulary's, where padding is put.
    ids_RP = jnp.where(positions_RP <= new.position_B[:, None], tokens_RP, definition.config.padded_vocab_size)
    seen_RV = jnp.zeros((batch, definition.config.padded_vocab_size), jnp.bool_)
    seen_RV = seen_RV.at[jnp.arange(batch)[:, None], ids_RP].set(True)
    rows = jax.tree.map(lambda old, new: old.at[places_R].set(new), slots.rows, new)
    seen_BV = slots.seen_BV.at[places_R].set(seen_RV)
    told = _tell_prompt(model, hidden_RPD, tokens_RP) if tells else None
    return Slots(slots.cache.with_rows(cache, places_R), seen_BV, rows).laid_out(), told


def _tell_prompt(model: Llama, hidden_RPD: Array, tokens_RP: Array) -> Told:
    """What the model gave each token of a prompt after the one before it; scores are made a stretch at a time."""
    batch, length, size = hidden_RPD.shape
    following_RP = jnp.roll(tokens_RP, -1, axis=1)
    stretches = length // _SCORED_TOGETHER
    hidden = hidden_RPD.reshape(batch, stretches, _SCORED_TOGETHER, size).swapaxes(0, 1)
    following = following_RP.reshape(batch, stretches, _SCORED_TOGETHER).swapaxes(0, 1)

    def tell(stretch: tuple[Array, Array]) -> Told:
        logits_RCV = model.logits(stretch[0])
        told = log_probabilities(logits_RCV.reshape(-1, logits_RCV.shape[-1]), stretch[1].reshape(-1))
        return jax.tree.map(lambda x: x.reshape(batch, _SCORED_TOGETHER, *x.shape[1:]), told)

    told = jax.lax.map(tell, (hidden, following))
    told = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(batch, length, *x.shape[3:]), told)
    return jax.tree.map(lambda x: constrain(x, *["gathered"] * x.ndim), told)


def decode(
    definition: Definition, watermark: Watermark | None, ends: Collection[int], parameters: Parameters, slots: Slots
) -> tuple[Slots, Int32[Array, "B"], Told]:
    """One token more in every slot.

    Args:
      definition: the model's structure.
      watermark: put into the answers; None for none.
      ends: the tokens that end an answer.
      parameters: the model's weights.
      slots: as they are.

    Returns:
      The slots, the tokens, and what is to be told of them; zeros where no slot wants anything told.
    """
    model, rows = definition.bind(parameters), slots.rows
    hidden_B1D, cache = model.extend(rows.token_B[:, None], rows.position_B[:, None], slots.cache)
    # Every process looks at every row's token, for the end; a row's scores are small enough to choose everywhere.
    logits_BV = constrain(model.logits(hidden_B1D)[:, 0], "gathered", "gathered")
    scores_BV = jax.lax.cond(
        jnp.any(rows.controls.penalty_B != 1),
        lambda: penalise(logits_BV, slots.seen_BV, rows.controls.penalty_B),
        lambda: logits_BV,
    )
    if watermark is not None:
        scores_BV = bias(scores_BV, rows.recent_BW, watermark, ends)
    token_B = choose(scores_BV, _keys(rows), rows.controls)
    silent = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(log_probabilities, logits_BV, token_B))
    told = jax.lax.cond(jnp.any(rows.controls.tells_B), lambda: log_probabilities(logits_BV, token_B), lambda: silent)
    moved = dataclasses.replace(
        rows,
        token_B=token_B,
        position_B=rows.position_B + 1,
        recent_BW=jnp.concatenate([rows.recent_BW[:, 1:], token_B[:, None]], axis=1),
    )
    seen_BV = slots.seen_BV.at[jnp.arange(token_B.shape[0]), token_B].set(True)
    return Slots(cache, seen_BV, moved).laid_out(), token_B, told


def _keys(rows: Rows) -> Array:
    """A random key for each row's next token: its draw depends on the seed, the draw's number and the position."""

    def key(seed: Array, draw: Array, position: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), draw), position)

    return jax.vmap(key)(rows.seed_B, rows.draw_B, rows.position_B + 1)
