"""What the HTTP interface and the demo both call: prompts in, checked and counted answers out, bit by bit."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from typing import TypeAlias

from alpaca_jax.data.instructions import Conversation, Instruction, Record
from alpaca_jax.generation.engine import Engine
from alpaca_jax.generation.settings import Sampling
from alpaca_jax.serving.answers import Answers, Delta, Job
from alpaca_jax.serving.engine_thread import EngineThread
from alpaca_jax.serving.metrics import Metrics
from alpaca_jax.serving.moderation import Filter
from alpaca_jax.serving.refusal import Refusal, invalid, refuse_as_invalid
from alpaca_jax.serving.settings import Limits
from alpaca_jax.support.errors import UserError

# What a model is asked to continue: a text, as it is; a record, put into the template; or tokens.
Prompt: TypeAlias = str | Record | list[int]

# How `Sampling` calls what OpenAI's protocol calls otherwise.
_NAMES = {"max_new_tokens": "max_tokens"}


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """A model behind the server.

    Attributes:
      name: in requests.
      engine: that runs it.
      checkpoint: the hash of its description, to know later which it was.
      created: when its checkpoint was written, in seconds since 1970.
    """

    name: str
    engine: Engine
    checkpoint: str
    created: int = 0

    @property
    def context(self) -> int:
        """The longest prompt and answer together, in tokens."""
        return self.engine.context


class Service:
    """Models that answer, within limits and through the content filter.

    Attributes:
      models: by name; the first is the default.
      limits: what is allowed.
      metrics: what is counted.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        *,
        limits: Limits | None = None,
        filter: Filter | None = None,
        metrics: Metrics | None = None,
    ):
        """Starts the engines' thread; `close` ends it."""
        self.models: Mapping[str, ServedModel] = {model.name: model for model in models}
        self.limits, self.metrics, self._filter = limits or Limits(), metrics or Metrics(), filter
        engines = {id(model.engine): model.engine for model in models}
        self._thread = EngineThread([*engines.values()])
        self._pending = dict.fromkeys(self.models, 0)
        watched = {
            "waiting": "Answers that wait for a slot.",
            "running": "Slots that are busy.",
            "slots": "Slots there are.",
        }
        for name, model in self.models.items():
            for value, meaning in watched.items():
                self.metrics.watch(f"alpaca_jax_{value}", meaning, partial(getattr, model.engine, value), model=name)

    @property
    def max_tokens(self) -> int:
        """The most new tokens that a request may ask for."""
        return self.limits.max_tokens

    @property
    def healthy(self) -> bool:
        """Whether the engines still run."""
        return not self._thread.failed

    def model(self, name: str | None) -> ServedModel:
        """The model of that name; the default one for None.

        Raises:
          Refusal: there is none (404).
        """
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            message = f"The model {name[:100]!r} does not exist; there is {', '.join(map(repr, self.models))}."
            raise Refusal(404, "invalid_request_error", message, "model_not_found", "model")
        return self.models[name]

    async def open(self, model: str | None, prompts: Sequence[Prompt], sampling: Sampling, n: int = 1) -> Answers:
        """Starts `n` answers to each prompt. Whoever calls must close them.

        Raises:
          Refusal: an unknown model, a prompt that is empty or too long (400), that the filter stops (400) or cannot
            judge (503); no room in the queue (429); or the engine has failed (503).
        """
        served = self.model(model)
        if not self.healthy:
            raise Refusal(503, "server_error", "The model has failed. See the server's log.")
        self._check_room(served, len(prompts) * n)
        # In a thread: a long prompt is tokenised for a while.
        ids = await asyncio.to_thread(self._encode, served, prompts)
        template = None if any(isinstance(prompt, str | list) for prompt in prompts) else served.engine.template
        job = Job(served.name, served.engine, ids, self._fitting(sampling, ids, served), n, template)
        if self._filter:
            await self._check_prompts(self._filter, served, prompts)
        self._check_room(served, job.choices)  # again, since others came meanwhile
        self._pending[served.name] += job.choices
        try:
            answers = Answers(
                job, self._thread, self._filter, self.metrics, self.limits.timeout, lambda: self._leave(job)
            )
        except UserError as error:
            refuse_as_invalid(error, _NAMES)
        self.metrics.tokens.labels(served.name, "prompt").inc(job.prompt_tokens)
        return answers

    async def stream(
        self, model: str | None, prompt: Prompt, sampling: Sampling, n: int = 1
    ) -> AsyncGenerator[Delta, None]:
        """The answers to one prompt. Closing the iterator, or cancelling its reader, frees their slots.

        Raises:
          Refusal: as `open` and `Answers`.
        """
        answers = await self.open(model, [prompt], sampling, n)
        with contextlib.closing(answers):
            async for delta in answers:
                yield delta

    async def close_filter(self) -> None:
        """Ends the filter's connections, in the loop in which it was asked."""
        if self._filter:
            await self._filter.close()

    def close(self) -> None:
        """Ends the engines' thread."""
        self._thread.stop()

    def _leave(self, job: Job) -> None:
        self._pending[job.model] -= job.choices

    def _check_room(self, served: ServedModel, choices: int) -> None:
        room = self.limits.queue + served.engine.slots
        most = min(self.limits.choices, room)
        if choices > most:
            raise invalid(f"At most {most} answers a request (its prompts times n); this one asks for {choices}.", "n")
        if self._pending[served.name] + choices > room:
            message = "The queue is full. Try again in a little while."
            raise Refusal(429, "rate_limit_error", message, "rate_limit_exceeded", retry_after=2)

    def _encode(self, served: ServedModel, prompts: Sequence[Prompt]) -> tuple[list[int], ...]:
        try:
            found = [ids if isinstance(ids, list) else served.engine.prompt_ids(ids) for ids in prompts]
        except UserError as error:
            refuse_as_invalid(error)
        most = served.engine.tokenizer.vocab_size
        for prompt, ids in zip(prompts, found, strict=True):
            if not ids:
                raise invalid("The prompt is empty. Give it a text.", _field_of(prompt))
            if len(ids) >= served.context:
                message = (
                    f"This model's context is {served.context} tokens, of which the prompt takes {len(ids)}. "
                    "Shorten it, so that there is room for an answer."
                )
                raise invalid(message, _field_of(prompt), "context_length_exceeded")
            if not 0 <= min(ids) <= max(ids) < most:
                raise invalid(f"The tokens of a prompt are numbers from 0 to {most - 1}.", "prompt")
        return tuple(found)

    def _fitting(self, sampling: Sampling, ids: Sequence[list[int]], served: ServedModel) -> Sampling:
        """With as many tokens as fit after the longest prompt."""
        most = min(self.max_tokens, served.context)
        if sampling.max_new_tokens > most:
            raise invalid(f"max_tokens: expected at most {most}; found {sampling.max_new_tokens}.", "max_tokens")
        left = served.context - max(map(len, ids))
        return dataclasses.replace(sampling, max_new_tokens=min(left, sampling.max_new_tokens))

    async def _check_prompts(self, filter: Filter, served: ServedModel, prompts: Sequence[Prompt]) -> None:
        for prompt in prompts:
            reason = await filter.check(_text_of(prompt, served))
            if reason:
                self.metrics.blocked.labels("prompt", reason).inc()
                message = "The content filter does not let this prompt pass. Change it."
                raise invalid(message, _field_of(prompt), "content_filter")


def _field_of(prompt: Prompt) -> str:
    """The field of a request that a prompt came in."""
    return "messages" if isinstance(prompt, Conversation) else "prompt"


def _text_of(prompt: Prompt, served: ServedModel) -> str:
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list):
        return served.engine.tokenizer.decode(prompt)
    if isinstance(prompt, Instruction):
        return prompt.question
    return "\n".join(message.content for message in prompt.messages)
