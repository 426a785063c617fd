"""Prompts to continuations: one prefill over the prompts, then one token a row at a time.

B batch, P prompt length (a bucket), S cache slots (a bucket), V padded vocabulary.
"""

import contextlib
import copy
import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from alpaca_jax.data.examples import encode_prompt, end_ids
from alpaca_jax.data.instructions import Record
from alpaca_jax.data.prompt import Template
from alpaca_jax.data.tokenizer import Tokenizer
from alpaca_jax.generation.sampling import Sampling, sample
from alpaca_jax.model.cache import KVCache
from alpaca_jax.model.definition import Definition, Parameters
from alpaca_jax.parallel.mesh import batch_divisor
from alpaca_jax.parallel.sharding import constrain
from alpaca_jax.support.errors import UserError

# Shapes are rounded up to these, so that a handful of programs serves all prompts.
_SMALLEST_BUCKET = 32
_BATCH = 8


class Generator:
    """A model ready to answer.

    Args:
      definition: the model's structure.
      parameters: its weights, in the type to compute in.
      tokenizer: its tokenizer.
      template: the prompt template that it was trained with.
      mesh: what the weights lie on; None for one device.

    Raises:
      UserError: the tokenizer has not got the template's special tokens.
    """

    def __init__(
        self,
        definition: Definition,
        parameters: Parameters,
        tokenizer: Tokenizer,
        template: Template,
        mesh: Mesh | None = None,
    ):
        self._definition, self._parameters, self._tokenizer, self._mesh = definition, parameters, tokenizer, mesh
        self._template, self._ends = template, sorted(end_ids(template, tokenizer))
        static = ("temperature", "top_p")
        self._prefill = jax.jit(functools.partial(_prefill, definition), static_argnames=("slots", *static))
        self._decode = jax.jit(functools.partial(_decode, definition), static_argnames=static, donate_argnames="cache")

    def on(self, parameters: Parameters) -> "Generator":
        """The same with other weights of the same shapes, types and shardings; what has been compiled serves both."""
        other = copy.copy(self)
        other._parameters = parameters
        return other

    def answer(
        self, prompts: Sequence[str | Record], sampling: Sampling, advance: Callable[[int], object] = lambda count: None
    ) -> list[str]:
        """The continuation of each prompt, as text; the end token and what follows it are left out.

        Args:
          prompts: texts, taken as they are; or records to put into the template: instructions, whose output does not
            count, and chats that end with the user.
          sampling: how tokens are chosen.
          advance: told the number of prompts finished, as they are.

        Raises:
          UserError: a prompt fills the model's context.
        """
        answers: list[str] = []
        for first in range(0, len(prompts), _BATCH):
            batch = prompts[first : first + _BATCH]
            tokens = self.continuations([self._ids(prompt) for prompt in batch], sampling, first)
            for prompt, ids in zip(batch, tokens, strict=True):
                text = self._tokenizer.decode(ids)
                answers.append(text if isinstance(prompt, str) else self._template.answer_in(text))
            advance(len(batch))
        return answers

    def _ids(self, prompt: str | Record) -> list[int]:
        if isinstance(prompt, str):
            return self._tokenizer.encode_prompt(prompt)
        return encode_prompt(prompt, self._tokenizer, self._template)

    def continuations(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, first_index: int = 0
    ) -> list[list[int]]:
        """Token ids to the ids that follow, the end token left out.

        Args:
          prompts: ids, at least one each.
          sampling: how tokens are chosen.
          first_index: the number of the first prompt, where a longer list is worked through in parts.

        Raises:
          UserError: a prompt is empty, or fills the model's context.
        """
        context = self._definition.config.max_position_embeddings
        for number, prompt in enumerate(prompts, start=first_index):
            if not 0 < len(prompt) < context:
                raise UserError(
                    f"prompt {number + 1}",
                    expected=f"1 to {context - 1} tokens, the model's context less one",
                    found=f"{len(prompt)}",
                    remedy="shorten it" if prompt else "give it a text",
                )
        longest = max(map(len, prompts))
        new_tokens = min(sampling.max_new_tokens, context - longest)
        rows = _round_up(len(prompts), batch_divisor(self._mesh) if self._mesh else 1)
        lengths_B = np.array([len(prompt) for prompt in prompts] + [1] * (rows - len(prompts)), np.int32)
        tokens_BP = np.zeros((rows, _bucket(longest)), np.int32)
        for row, prompt in enumerate(prompts):
            tokens_BP[row, : len(prompt)] = prompt
        indices_B = first_index + np.arange(rows)

        with jax.set_mesh(self._mesh) if self._mesh else contextlib.nullcontext():
            made_BT = self._run(tokens_BP, lengths_B, indices_B, new_tokens, len(prompts), sampling)
        return [_until(row, self._ends) for row in made_BT[: len(prompts)].tolist()]

    def _run(
        self,
        tokens_BP: np.ndarray,
        lengths_B: np.ndarray,
        indices_B: np.ndarray,
        new_tokens: int,
        wanted: int,
        sampling: Sampling,
    ) -> np.ndarray:
        """All rows' new tokens, [B, T]; ends when every wanted row has ended."""
        choice = {"temperature": sampling.temperature, "top_p": sampling.top_p}
        keys_B = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(sampling.seed), i))(indices_B)
        slots = max(tokens_BP.shape[1], _bucket(int(lengths_B.max()) + new_tokens))
        token_B, cache = self._prefill(self._parameters, tokens_BP, lengths_B, keys_B, slots=slots, **choice)
        made = [np.asarray(token_B)]
        ended_B = np.isin(made[0], self._ends)
        while len(made) < new_tokens and not ended_B[:wanted].all():
            token_B, cache = self._decode(
                self._parameters, token_B, lengths_B + len(made) - 1, keys_B, cache=cache, **choice
            )
            made.append(np.asarray(token_B))
            ended_B |= np.isin(made[-1], self._ends)
        return np.stack(made, axis=1)


def _prefill(
    definition: Definition,
    parameters: Parameters,
    tokens_BP: jax.Array,
    lengths_B: jax.Array,
    keys_B: jax.Array,
    slots: int,
    temperature: float,
    top_p: float,
) -> tuple[jax.Array, KVCache]:
    """The first new token of each row, and the cache of its prompt."""
    model = definition.bind(parameters)
    batch, length = tokens_BP.shape
    cache = KVCache.empty(definition.config, batch, slots, jax.tree.leaves(parameters)[0].dtype)
    positions_BP = jnp.broadcast_to(jnp.arange(length), (batch, length))
    hidden_BPD, cache = model.extend(tokens_BP, positions_BP, cache)
    last_B1D = jnp.take_along_axis(hidden_BPD, (lengths_B - 1)[:, None, None], axis=1)
    return _choose(model.logits(last_B1D)[:, 0], keys_B, lengths_B, temperature, top_p), cache


def _decode(
    definition: Definition,
    parameters: Parameters,
    token_B: jax.Array,
    positions_B: jax.Array,
    keys_B: jax.Array,
    cache: KVCache,
    temperature: float,
    top_p: float,
) -> tuple[jax.Array, KVCache]:
    """The token after `token_B`, which stands at `positions_B`."""
    model = definition.bind(parameters)
    hidden_B1D, cache = model.extend(token_B[:, None], positions_B[:, None], cache)
    return _choose(model.logits(hidden_B1D)[:, 0], keys_B, positions_B + 1, temperature, top_p), cache


def _choose(
    logits_BV: jax.Array, keys_B: jax.Array, positions_B: jax.Array, temperature: float, top_p: float
) -> jax.Array:
    # A draw depends on the request's key and the new token's position, and on nothing else.
    token_B = sample(logits_BV, jax.vmap(jax.random.fold_in)(keys_B, positions_B), temperature, top_p)
    return constrain(token_B, "gathered")  # every process looks at every row's, for the end


def _bucket(length: int) -> int:
    return max(_SMALLEST_BUCKET, 1 << (length - 1).bit_length())


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _until(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """The tokens before the first that ends an answer."""
    return list(itertools.takewhile(lambda token: token not in ends, tokens))
