"""Requests for answers, the pieces in which these are handed on, and what the device is told of a request.

W tokens that the watermark remembers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from alpaca_jax.generation.sampling import Controls
from alpaca_jax.generation.settings import Sampling
from alpaca_jax.generation.slots import Rows
from alpaca_jax.generation.text_stream import Released, TextStream, TokenChoice

FinishReason = Literal["stop", "length", "cancelled"]


class Piece(NamedTuple):
    """What has been added to an answer.

    Attributes:
      text: may be empty while something is held back (see `TextStream`).
      tokens: those the text came from; the end token is among them only where log-probabilities were asked for.
      finish_reason: why nothing more comes: `stop` for the end token or a stop string, `length` for
        `max_new_tokens` or the context's end; None while more may come.
      prompt: the prompt's tokens, in the first piece where they were asked for.
    """

    text: str
    tokens: tuple[TokenChoice, ...]
    finish_reason: FinishReason | None
    prompt: tuple[TokenChoice, ...] = ()


class Request:
    """One answer, waiting or under way; `Engine.submit` makes it."""

    def __init__(
        self,
        prompt: list[int],
        sampling: Sampling,
        limit: int,
        stream: TextStream,
        on_piece: Callable[[Piece], None],
        draw: int,
    ):
        self.prompt, self.sampling, self.limit, self.draw = prompt, sampling, limit, draw
        self.stream, self.on_piece = stream, on_piece
        self.cancelled = self.finished = False
        self.asked = self.made = 0  # tokens that the device was asked for, and those that came

    def cancel(self) -> None:
        """Ends the answer; its slot is free at the next step. From any thread, at any time."""
        self.cancelled = True

    def give(self, released: Released, reason: FinishReason | None, prompt: tuple[TokenChoice, ...] = ()) -> None:
        """Hands a piece on."""
        self.finished = reason is not None
        self.on_piece(Piece(released.text, released.tokens, reason, prompt))

    def choice(self, id: int, told: Mapping[str, np.ndarray], place: int, read: Callable[[int], str]) -> TokenChoice:
        """A token with what the device told at that place; `read` gives the text of a token."""
        count = self.sampling.logprobs or 0
        pairs = zip(told["ids"][place][:count].tolist(), told["best"][place][:count].tolist(), strict=True)
        best = tuple((other, read(other), logprob) for other, logprob in pairs)
        return TokenChoice(id, read(id), float(told["chosen"][place]), best)

    def tell_prompt(self, told: Mapping[str, np.ndarray], read: Callable[[int], str]) -> None:
        """Hands on the prompt's tokens, with what the device told of each after the first."""
        first = TokenChoice(self.prompt[0], read(self.prompt[0]))
        rest = [self.choice(id, told, place, read) for place, id in enumerate(self.prompt[1:])]
        self.give(Released("", ()), "length" if self.limit == 0 else None, (first, *rest))


def rows_of(requests: Sequence[Request], width: int) -> Rows:
    """What the device is told of requests, a row each; `width` is W, how many of the last tokens it is told."""

    def column(values: list[Any], dtype: Any) -> np.ndarray:
        return np.array(values, dtype)

    samplings = [request.sampling for request in requests]
    recent = [([-1] * width + request.prompt)[-width:] for request in requests]
    controls = Controls(
        column([sampling.temperature for sampling in samplings], np.float32),
        column([sampling.top_p for sampling in samplings], np.float32),
        column([sampling.top_k for sampling in samplings], np.int32),
        column([sampling.repetition_penalty for sampling in samplings], np.float32),
        column([sampling.logprobs is not None for sampling in samplings], np.bool_),
    )
    return Rows(
        column([request.prompt[-1] for request in requests], np.int32),
        column([len(request.prompt) - 1 for request in requests], np.int32),
        column([sampling.seed for sampling in samplings], np.uint32),
        column([request.draw for request in requests], np.uint32),
        column(recent, np.int32),
        controls,
    )
