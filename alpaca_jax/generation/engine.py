"""Continuous batching: answers join and leave a batch of fixed size between two tokens.

B slots, R rows admitted together, P prompt length (a bucket), W tokens that the watermark remembers.
"""

import contextlib
import copy
import functools
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from alpaca_jax.data.examples import encode_prompt, end_ids
from alpaca_jax.data.instructions import Record
from alpaca_jax.data.prompt import Template
from alpaca_jax.data.tokenizer import Tokenizer
from alpaca_jax.generation.requests import Piece, Request, rows_of
from alpaca_jax.generation.settings import Sampling
from alpaca_jax.generation.slots import Slots, admit, decode, empty_slots
from alpaca_jax.generation.text_stream import Released, TextStream, TokenChoice
from alpaca_jax.generation.watermark import REMEMBERED, Watermark
from alpaca_jax.generation.weights import form_of
from alpaca_jax.model.attention import SLOT_BLOCK
from alpaca_jax.model.definition import Definition, Parameters
from alpaca_jax.parallel.mesh import batch_divisor
from alpaca_jax.support.errors import UserError

# Prompts are padded to a power of two of at least this, so that a handful of programs serves all of them.
_SHORTEST_PROMPT = 32
# The same of the cache's slots; with fewer, XLA would take another way through small products, which rounds otherwise.
_SHORTEST_CACHE = 2 * SLOT_BLOCK


class _Flight(NamedTuple):
    """A step that the device is working on, or has finished: who was in which slot, and what comes of it."""

    requests: list[Request | None]
    token_B: jax.Array
    told: Mapping[str, jax.Array]


class Engine:
    """A model and the answers that it is giving.

    Args:
      definition: the model's structure.
      parameters: its weights, in the type to compute in.
      tokenizer: its tokenizer.
      template: the prompt template that it was trained with.
      mesh: what the weights lie on; None for one device.
      slots: how many answers are under way at the same time, at most; rounded up to what the mesh divides.
      context: the longest prompt and answer together, in tokens; None for the model's own.
      watermark: put into every answer; None for none.

    Raises:
      UserError: the tokenizer has not got the template's special tokens, or the model has not got such a context.
    """

    def __init__(
        self,
        definition: Definition,
        parameters: Parameters,
        tokenizer: Tokenizer,
        template: Template,
        mesh: Mesh | None = None,
        *,
        slots: int = 8,
        context: int | None = None,
        watermark: Watermark | None = None,
    ):
        definition.config.check_context(context)
        self.tokenizer, self.template = tokenizer, template
        self.context = context or definition.config.max_position_embeddings
        self.definition, self.parameters, self._mesh = definition, parameters, mesh
        self.ends = end_ids(template, tokenizer)
        self._together = batch_divisor(mesh) if mesh else 1
        self._width = REMEMBERED if watermark else 1
        self._slots = -(-slots // self._together) * self._together
        self._empty = jax.jit(
            functools.partial(empty_slots, definition), static_argnames=("cache_slots", "dtype", "stacked")
        )
        self._resize = jax.jit(Slots.resized, static_argnames="slots")
        self._admission = jax.jit(
            functools.partial(admit, definition), static_argnames="tells", donate_argnames="slots"
        )
        self._decode = jax.jit(functools.partial(decode, definition, watermark, self.ends), donate_argnames="slots")
        self._read = functools.cache(tokenizer.piece)
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[Request] = deque()
        self._rows: list[Request | None] = [None] * self._slots
        self._flights: deque[_Flight] = deque()
        self._state: Slots | None = None

    def on(self, parameters: Parameters) -> "Engine":
        """The same, idle, with other weights of the same shapes, types and shardings; what is compiled serves both."""
        other = copy.copy(self)
        other.parameters = parameters
        other._reset()
        return other

    @property
    def slots(self) -> int:
        """How many answers are under way at the same time, at most."""
        return self._slots

    @property
    def cache_bytes(self) -> int:
        """What the key-value cache takes at present, on all devices together."""
        return sum(x.nbytes for x in jax.tree.leaves(self._state.cache)) if self._state else 0

    @property
    def waiting(self) -> int:
        """How many requests have no slot yet."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """How many answers are under way."""
        return sum(request is not None for request in self._rows)

    def prompt_ids(self, prompt: str | Record) -> list[int]:
        """The tokens of a text, taken as it is, or of a record put into the template.

        A text is never read as a control token, whatever it spells.
        """
        if isinstance(prompt, str):
            return self.tokenizer.encode_prompt(prompt)
        return encode_prompt(prompt, self.tokenizer, self.template)

    def check_prompt(self, prompt_ids: Sequence[int], subject: str = "prompt") -> None:
        """Refuses a prompt that cannot be answered.

        Raises:
          UserError: it is empty, or fills the context.
        """
        if not 0 < len(prompt_ids) < self.context:
            raise UserError(
                subject,
                expected=f"1 to {self.context - 1} tokens, the context less one",
                found=f"{len(prompt_ids)}",
                remedy="shorten it" if prompt_ids else "give it a text",
            )

    def submit(
        self, prompt_ids: Sequence[int], sampling: Sampling, on_piece: Callable[[Piece], None], *, draw: int = 0
    ) -> Request:
        """Puts a prompt into the queue. From any thread.

        Args:
          prompt_ids: its tokens.
          sampling: how the answer's are chosen; where the context ends first, the answer ends there.
          on_piece: told of each piece, by the thread that steps; the last one has a `finish_reason`.
          draw: the number of the draw, where several answers to one prompt are wanted.

        Raises:
          UserError: the prompt is empty, or fills the context.
        """
        self.check_prompt(prompt_ids)
        limit = min(sampling.max_new_tokens, self.context - len(prompt_ids))
        stream = TextStream(self.tokenizer.decode, sampling.stop)
        request = Request(list(prompt_ids), sampling, limit, stream, on_piece, draw)
        with self._lock:
            self._queue.append(request)
        return request

    def step(self) -> bool:
        """Lets waiting requests into free slots, asks for a token in every slot, and hands on what has come.

        The device is always one step ahead of what is handed on, so that it does not wait for the text to be made.

        Returns:
          Whether anything is left to do.
        """
        with jax.set_mesh(self._mesh) if self._mesh else contextlib.nullcontext():
            self._drop_cancelled()
            self._admit()
            asks = any(request and request.asked < request.limit for request in self._rows)
            if asks:
                self._ask()
        if self._flights and (not asks or len(self._flights) > 1):
            self._hand_on(self._flights.popleft())
        return bool(self._flights or self._queue or self.running)

    def _drop_cancelled(self) -> None:
        with self._lock:
            gone = [request for request in self._queue if request.cancelled]
            self._queue = deque(request for request in self._queue if not request.cancelled)
        gone += [request for request in self._rows if request and request.cancelled]
        for request in gone:
            self._free(request)
            request.give(Released("", ()), "cancelled")

    def _free(self, request: Request) -> None:
        self._rows = [None if row is request else row for row in self._rows]

    # Into the slots.

    def _admit(self) -> None:
        while (free := [place for place, row in enumerate(self._rows) if row is None]) and self._queue:
            with self._lock:
                group = [self._queue.popleft()]
                # Of one bucket, so that no prompt is padded differently for what it came with.
                while (
                    self._queue
                    and len(group) < min(self._together, len(free))
                    and self._alike(self._queue[0], group[0])
                ):
                    group.append(self._queue.popleft())
            for place, request in zip(free, group, strict=False):
                self._rows[place] = request
            self._prefill(group, free[: len(group)])

    @staticmethod
    def _alike(one: Request, other: Request) -> bool:
        same = one.sampling.prompt_logprobs == other.sampling.prompt_logprobs
        return same and _bucket(len(one.prompt), _SHORTEST_PROMPT) == _bucket(len(other.prompt), _SHORTEST_PROMPT)

    def _prefill(self, group: list[Request], places: list[int]) -> None:
        length = _bucket(max(len(request.prompt) for request in group), _SHORTEST_PROMPT)
        self._make_room(length)
        tokens_RP = np.zeros((self._together, length), np.int32)
        for row, request in enumerate(group):
            tokens_RP[row, : len(request.prompt)] = request.prompt
        padding = self._together - len(group)
        places_R = np.array([*places, *[self._slots] * padding], np.int32)
        tells = group[0].sampling.prompt_logprobs
        rows = rows_of([*group, *group[:1] * padding], self._width)
        self._state, told = self._admission(self.parameters, self._state, tokens_RP, rows, places_R, tells=tells)
        if tells:
            told = jax.device_get(told)
            for row, request in enumerate(group):
                if request.limit == 0:
                    self._free(request)
                request.tell_prompt({name: values[row] for name, values in told.items()}, self._read)

    def _make_room(self, length: int = 1) -> None:
        """Has the cache as long as the longest row needs it now, in powers of two; it shrinks by half or more."""
        needs = (len(request.prompt) + request.asked for request in self._rows if request)
        wanted = _bucket(max([length, *needs]), _SHORTEST_CACHE)
        if self._state is None:
            idle = Request([0], Sampling(temperature=0.0), 0, TextStream(self.tokenizer.decode), lambda piece: None, 0)
            rows, form = rows_of([idle] * self._slots, self._width), form_of(self.parameters)
            self._state = self._empty(rows, cache_slots=wanted, dtype=form.dtype, stacked=form.stacked)
        elif (has := self._state.cache.slots) < wanted or has >= 4 * wanted:
            self._state = self._resize(self._state, slots=wanted)

    # Out of the slots.

    def _ask(self) -> None:
        self._make_room()
        self._state, token_B, told = self._decode(self.parameters, self._state)
        self._flights.append(_Flight(list(self._rows), token_B, told))
        for request in self._rows:
            if request:
                request.asked += 1

    def _hand_on(self, flight: _Flight) -> None:
        running = [(place, request) for place, request in enumerate(flight.requests) if request]
        running = [(place, request) for place, request in running if not request.finished]
        tells = any(request.sampling.logprobs is not None for _, request in running)
        token_B, told = jax.device_get((flight.token_B, flight.told if tells else {}))
        for place, request in running:
            self._add(request, int(token_B[place]), told, place)

    def _add(self, request: Request, id: int, told: Mapping[str, np.ndarray], place: int) -> None:
        """One token more for a request."""
        request.made += 1
        wanted = request.sampling.logprobs is not None
        choice = request.choice(id, told, place, self._read) if wanted else TokenChoice(id, self._read(id))
        if id in self.ends:
            self._free(request)
            last = request.stream.finish()
            # Who asks for log-probabilities wants that of the end as well: lm-eval counts on a last token.
            request.give(last._replace(tokens=(*last.tokens, choice)) if wanted else last, "stop")
            return
        released = request.stream.push(choice)
        over = request.made == request.limit
        if over and not released.stopped:
            last = request.stream.finish()
            released = Released(released.text + last.text, released.tokens + last.tokens, last.stopped)
        if over or released.stopped:
            self._free(request)
        request.give(released, "stop" if released.stopped else "length" if over else None)


def _bucket(length: int, least: int) -> int:
    return max(least, 1 << (length - 1).bit_length())
