"""What visitors of the demo have running: a question at a time, answered by all models side by side."""

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Mapping

from alpaca_jax.data.instructions import Instruction
from alpaca_jax.generation.settings import Sampling
from alpaca_jax.serving.refusal import Refusal
from alpaca_jax.serving.service import Service

# Seconds between two looks of the page: the tokens of a fast model come several at once, and none pile up.
_PACE = 0.05


@dataclasses.dataclass
class Progress:
    """How far one model's answer is.

    Attributes:
      text: what has come.
      tokens: how many tokens it is.
      seconds: since the question was sent.
      ending: why it ended: `stop`, `length`, `content_filter`, or `stopped` by the visitor; None while it goes on.
      refusal: why there is no answer, or no more of it, in words for the visitor.
    """

    text: str = ""
    tokens: int = 0
    seconds: float = 0.0
    ending: str | None = None
    refusal: str | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.ending is not None or self.refusal is not None


class Visits:
    """Asks the service, and stops it for the visitor who asked.

    Args:
      service: what answers.
    """

    def __init__(self, service: Service):
        self.service = service
        self._running: dict[str, list[asyncio.Task[None]]] = {}

    @property
    def most_tokens(self) -> int:
        """The most new tokens that all models can be asked for."""
        return min(self.service.max_tokens, *(model.context for model in self.service.models.values()))

    async def ask(self, visitor: str, record: Instruction, sampling: Sampling) -> AsyncIterator[Mapping[str, Progress]]:
        """The answers by model, again and again as they grow; at the last time, all are over.

        A visitor who asks again ends what was still running.
        """
        self.stop(visitor)
        answers = {model: Progress() for model in self.service.models}
        changed = asyncio.Event()
        follow = [self._follow(model, record, sampling, answer, changed) for model, answer in answers.items()]
        tasks = self._running[visitor] = [asyncio.create_task(coroutine) for coroutine in follow]
        try:
            while not all(answer.over for answer in answers.values()):
                await changed.wait()
                changed.clear()
                yield answers
                await asyncio.sleep(_PACE)
            yield answers
        finally:
            for task in tasks:
                task.cancel()
            if self._running.get(visitor) is tasks:
                del self._running[visitor]

    def stop(self, visitor: str) -> None:
        """Ends the visitor's answers where they are, which frees their slots of the engine."""
        for task in self._running.get(visitor, []):
            task.cancel()

    async def _follow(
        self, model: str, record: Instruction, sampling: Sampling, answer: Progress, changed: asyncio.Event
    ) -> None:
        start = time.monotonic()
        ending: str | None = None
        try:
            async with contextlib.aclosing(self.service.stream(model, record, sampling)) as deltas:
                async for delta in deltas:
                    # Many models begin with empty lines.
                    answer.text = (answer.text + delta.text).lstrip()
                    answer.tokens += len(delta.tokens)
                    answer.seconds = time.monotonic() - start
                    ending = delta.finish_reason or ending
                    changed.set()
                ending = ending or "stop"
        except Refusal as refusal:
            answer.refusal = refusal.message
        except asyncio.CancelledError:
            ending = "stopped"
        except Exception as error:
            # Its message may hold what was asked, which the log must not.
            logging.getLogger(__name__).error("an answer of the demo failed: %s", type(error).__name__)
            answer.refusal = "The server failed at this answer. Please try again."
        finally:
            answer.seconds = time.monotonic() - start
            answer.ending = ending
            changed.set()
