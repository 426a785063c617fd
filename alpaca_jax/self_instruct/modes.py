"""The two ways from a request to records: whole tasks at once as in Alpaca, or step by step as in self-instruct."""

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from alpaca_jax.data.instructions import Instruction
from alpaca_jax.remote.client import Client
from alpaca_jax.remote.log import Answer
from alpaca_jax.remote.protocol import Ask
from alpaca_jax.self_instruct.parsing import parse_instances, parse_instructions, parse_tasks, parse_yes
from alpaca_jax.self_instruct.seeds import Drawn, Seed
from alpaca_jax.self_instruct.settings import Settings
from alpaca_jax.self_instruct.texts import (
    SEPARATOR,
    TASKS_SCHEMA,
    instances_request,
    instructions_request,
    json_request,
    kind_request,
    numbered_request,
)

_LIST_TOKENS, _KIND_TOKENS, _INSTANCES_TOKENS = 1024, 8, 1024
_PROMPTS = 5  # in a request, where a server continues several texts at once
_KIND_EXAMPLES = 6  # of each kind; half as many, rounded, of instances
_T = TypeVar("_T")


class Candidate(NamedTuple):
    """An instruction that may become a record, or several.

    Attributes:
      name: the request's number, and its own among what the request brought.
      instruction: without white space at its ends.
      task: with input and output, where they came with it.
      drawn: what its prompt was made with.
      answer: in which it came.
    """

    name: str
    instruction: str
    task: Instruction | None
    drawn: Drawn
    answer: Answer


class Completed(NamedTuple):
    """The records of a candidate, why others were not taken, and the request in which the records came."""

    tasks: list[Instruction]
    rejected: Counter[str]
    request_id: str


class Mode(Protocol):
    """How tasks are made."""

    prompts: int  # in a request

    def ask(self, request: int, drawn: Sequence[Drawn]) -> Ask:
        """The request by its number, made with examples for each of its prompts."""

    def candidates(self, answer: Answer, drawn: Sequence[Drawn]) -> tuple[list[Candidate], Counter[str]]:
        """What came back, in order, and how many tasks were not understood, by reason."""

    async def complete(self, candidate: Candidate, client: Client) -> Completed:
        """The records of a candidate that has passed the filters, asked for where they did not come with it."""


def mode_of(settings: Settings, seeds: Sequence[Seed]) -> Mode:
    """The mode that the settings name."""
    return WholeTasks(settings) if settings.mode == "alpaca" else StepByStep(settings, seeds)


async def all_of(coroutines: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """The results of all; the first error only when all have ended, so that no answer that is paid for is lost."""
    results = await asyncio.gather(*coroutines, return_exceptions=True)
    values = list[_T]()
    for result in results:
        if isinstance(result, BaseException):
            raise result
        values.append(result)
    return values


class WholeTasks:
    """Alpaca's way: a prompt asks for twenty tasks with inputs and outputs, of which its examples are the first."""

    def __init__(self, settings: Settings):
        """Ready to ask."""
        self._settings, self._chat = settings, settings.api == "chat"
        self.prompts = 1 if self._chat else _PROMPTS

    def ask(self, request: int, drawn: Sequence[Drawn]) -> Ask:
        """As `Mode.ask`."""
        settings = self._settings
        about = [(one.tasks, settings.domain, one.topic, settings.language) for one in drawn]
        texts = [numbered_request(*one, continued=not self._chat) for one in about]
        return Ask(
            key=str(request),
            model=settings.model,
            prompts=tuple(text for text, _ in texts),
            structured=(json_request(*about[0]), TASKS_SCHEMA) if self._chat else None,
            stop=texts[0][1],
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            chat=self._chat,
        )

    def candidates(self, answer: Answer, drawn: Sequence[Drawn]) -> tuple[list[Candidate], Counter[str]]:
        """As `Mode.candidates`."""
        found, rejected = list[Candidate](), Counter[str]()
        for choice, prompt in zip(answer.choices, drawn, strict=True):
            for task in parse_tasks(choice, None if self._chat else len(prompt.tasks) + 1):
                if isinstance(task, str):
                    rejected[task] += 1
                else:
                    name = f"{answer.key}/{len(found)}"
                    found.append(Candidate(name, task.instruction, task, prompt, answer))
        return found, rejected

    async def complete(self, candidate: Candidate, client: Client) -> Completed:
        """As `Mode.complete`: all is there."""
        assert candidate.task is not None, "whole tasks have inputs and outputs"
        return Completed([candidate.task], Counter(), candidate.answer.request_id)


class StepByStep:
    """Self-instruct's way: instructions; for each, whether it is a classification; then its instances.

    An instance of a classification is asked for with the output first, lest all have the same label; any other with the
    input first.
    """

    prompts = 1

    def __init__(self, settings: Settings, seeds: Sequence[Seed]):
        """Ready to ask, with examples of both kinds from the seeds."""
        self._settings, self._chat = settings, settings.api == "chat"
        generator = random.Random(f"{settings.seed}/kinds")
        self._shown = {
            kind: generator.sample(of_kind, min(_KIND_EXAMPLES, len(of_kind)))
            for kind in (True, False)
            if (of_kind := [seed for seed in seeds if seed.classification is kind])
        }
        self._kinds = [(seed.task.instruction, kind) for kind, shown in self._shown.items() for seed in shown]
        generator.shuffle(self._kinds)

    def ask(self, request: int, drawn: Sequence[Drawn]) -> Ask:
        """As `Mode.ask`."""
        settings, (prompt,) = self._settings, drawn
        known = [task.instruction for task in prompt.tasks]
        text = instructions_request(known, settings.domain, prompt.topic, settings.language)
        return Ask(
            key=str(request),
            model=settings.model,
            prompts=(text,),
            stop=(f"\n{2 * len(known) + 1}.",),
            max_tokens=_LIST_TOKENS,
            temperature=settings.temperature,
            top_p=settings.top_p,
            chat=self._chat,
        )

    def candidates(self, answer: Answer, drawn: Sequence[Drawn]) -> tuple[list[Candidate], Counter[str]]:
        """As `Mode.candidates`."""
        found, rejected = list[Candidate](), Counter[str]()
        (choice,), (prompt,) = answer.choices, drawn
        for instruction in parse_instructions(choice, len(prompt.tasks) + 1):
            if instruction in ("unreadable", "truncated"):
                rejected[instruction] += 1
            else:
                name = f"{answer.key}/{len(found)}"
                found.append(Candidate(name, instruction, None, prompt, answer))
        return found, rejected

    async def complete(self, candidate: Candidate, client: Client) -> Completed:
        """As `Mode.complete`: two requests, the second of which depends on the first."""
        instruction, rejected = candidate.instruction, Counter[str]()
        kind = await client.ask(self._step(candidate, "kind", kind_request(self._kinds, instruction), _KIND_TOKENS))
        if kind is None:
            return Completed([], Counter(given_up=1), "")
        output_first = parse_yes(kind.choices[0])
        examples = [seed.task for seed in self._shown[output_first][: _KIND_EXAMPLES // 2]]
        text = instances_request(examples, instruction, self._settings.language, output_first=output_first)
        answer = await client.ask(self._step(candidate, "instances", text, _INSTANCES_TOKENS))
        if answer is None:
            return Completed([], Counter(given_up=1), "")
        tasks = list[Instruction]()
        for task in parse_instances(answer.choices[0], instruction, output_first=output_first):
            if isinstance(task, str):
                rejected[task] += 1
            elif task in tasks or task.input == task.output:
                rejected["repeated"] += 1
            else:
                tasks.append(task)
        return Completed(tasks, rejected, answer.request_id)

    def _step(self, candidate: Candidate, step: str, text: str, max_tokens: int) -> Ask:
        stop: tuple[str, ...] = (f"\n{SEPARATOR}\nTask:", "\nTask:")
        if step == "kind":
            stop = () if self._chat else ("\n",)  # a chat model may begin with an empty line
        key = f"{candidate.name}/{step}"
        return Ask(key, self._settings.model, (text,), stop=stop, max_tokens=max_tokens, chat=self._chat)
