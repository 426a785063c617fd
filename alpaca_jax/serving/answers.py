"""The answers to one request, on their way from the engine's thread to whoever asked."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable
from typing import Literal, NamedTuple, TypeAlias

from alpaca_jax.data.prompt import Template
from alpaca_jax.generation.engine import Engine
from alpaca_jax.generation.requests import Piece, Request
from alpaca_jax.generation.settings import Sampling
from alpaca_jax.generation.text_stream import TokenChoice
from alpaca_jax.serving.engine_thread import EngineThread
from alpaca_jax.serving.held_text import Blocked, HeldText, Stretch
from alpaca_jax.serving.metrics import Metrics
from alpaca_jax.serving.moderation import Filter
from alpaca_jax.serving.refusal import Refusal

FinishReason: TypeAlias = Literal["stop", "length", "content_filter"]


class Delta(NamedTuple):
    """What is new in one of the answers.

    Attributes:
      index: of the answer.
      text: to be added to it.
      tokens: those of the text.
      finish_reason: why it has ended, with its last delta.
      prompt: the tokens of the prompt, with the first delta, where `Sampling.prompt_logprobs` asks for them.
    """

    index: int  # type: ignore[assignment]  # a tuple's method of that name
    text: str
    tokens: tuple[TokenChoice, ...] = ()
    finish_reason: FinishReason | None = None
    prompt: tuple[TokenChoice, ...] = ()


@dataclasses.dataclass(frozen=True)
class Job:
    """A request that can be run.

    Attributes:
      model: its name.
      engine: that runs it.
      prompts: their tokens.
      sampling: how tokens are chosen.
      n: answers to each prompt; answer `i` of prompt `j` has the index `j * n + i`.
      template: that the prompts were put into; None for prompts that are taken as they are.
    """

    model: str
    engine: Engine
    prompts: tuple[list[int], ...]
    sampling: Sampling
    n: int
    template: Template | None = None

    @property
    def choices(self) -> int:
        """The number of answers."""
        return len(self.prompts) * self.n

    @property
    def prompt_tokens(self) -> int:
        """The tokens of all prompts, each counted once."""
        return sum(map(len, self.prompts))


class Answers:
    """The answers to one request, in the order in which they come; to be closed, which frees their slots.

    Iterated once. The engine never waits for the reader: what has come is kept until it is read, and there is never
    more of it than the tokens that were asked for.
    """

    def __init__(
        self,
        job: Job,
        thread: EngineThread,
        filter: Filter | None,
        metrics: Metrics,
        timeout: float,
        on_close: Callable[[], object],
    ):
        """Submits the request.

        Raises:
          UserError: the engine refuses it.
        """
        self.job, self._thread, self._metrics, self._on_close = job, thread, metrics, on_close
        self._loop, self._pieces = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Piece] | None]()
        self._start, self._deadline = time.monotonic(), self._loop.time() + timeout
        self._held = {index: HeldText(filter) for index in range(job.choices)} if filter else {}
        self._unopened = set(range(job.choices)) if job.template else set[int]()
        self._open = dict[int, Request]()
        self._closed = False
        try:
            for index in range(job.choices):
                prompt, draw = job.prompts[index // job.n], index % job.n
                self._open[index] = job.engine.submit(prompt, job.sampling, self._receiver(index), draw=draw)
        except BaseException:
            self.close()
            raise
        thread.on_failure(self, self._tell_failure)
        thread.wake()

    def _receiver(self, index: int) -> Callable[[Piece], None]:
        return lambda piece: self._put((index, piece))

    def _tell_failure(self) -> None:
        self._put(None)

    def _put(self, item: tuple[int, Piece] | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may end before the engine's thread does
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, item)

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """Each delta as it comes.

        Raises:
          Refusal: time is up (504), the engine has failed (500), or the filter cannot be asked (503).
        """
        first = True
        try:
            while self._open:
                item = await self._next()
                if item is None:
                    raise Refusal(500, "server_error", "The model has failed. See the server's log.")
                if item[0] not in self._open:
                    continue  # it was stopped, and this was on its way
                if first:
                    self._metrics.first_token.observe(time.monotonic() - self._start)
                    first = False
                delta = await self._delta(*item)
                if delta.text or delta.tokens or delta.prompt or delta.finish_reason:
                    yield delta
            self._metrics.duration.observe(time.monotonic() - self._start)
        finally:
            self.close()

    async def _next(self) -> tuple[int, Piece] | None:
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._pieces.get()
        except TimeoutError:
            message = "The answer took longer than this server allows. Ask for fewer tokens."
            raise Refusal(504, "server_error", message, "timeout") from None

    async def _delta(self, index: int, piece: Piece) -> Delta:
        self._metrics.tokens.labels(self.job.model, "answer").inc(len(piece.tokens))
        piece = piece._replace(text=self._opened(index, piece.text))
        reason: FinishReason | None = None if piece.finish_reason == "cancelled" else piece.finish_reason
        shown = Stretch(piece.text, piece.tokens)
        if held := self._held.get(index):
            try:
                shown = await held.feed(piece)
            except Blocked as blocked:
                self._metrics.blocked.labels("answer", blocked.reason).inc()
                self._open[index].cancel()
                shown, reason = Stretch("", ()), "content_filter"
        if reason:
            del self._open[index]
        return Delta(index, shown.text, shown.tokens, reason, piece.prompt)

    def _opened(self, index: int, text: str) -> str:
        """The text without the space that the template, not the writer, puts before an answer."""
        if index not in self._unopened or not text:
            return text
        assert self.job.template
        text = self.job.template.answer_in(f"{text}|")[:-1]  # the mark keeps the space at the other end
        if text:
            self._unopened.remove(index)
        return text

    def close(self) -> None:
        """Frees the slots of the answers that have not ended; may be called more than once."""
        if self._closed:
            return
        self._closed = True
        self._thread.forget(self)
        self._metrics.cancelled.inc(len(self._open))
        for request in self._open.values():
            request.cancel()
        self._open.clear()
        self._thread.wake()
        self._on_close()
