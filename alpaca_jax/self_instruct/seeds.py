"""The seed tasks, and the examples and topics that each prompt is made with."""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from alpaca_jax.data.instructions import Instruction, records_of
from alpaca_jax.data.record_files import read_values
from alpaca_jax.self_instruct.settings import Settings
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import explain_os_errors


class Seed(NamedTuple):
    """A seed task.

    Attributes:
      name: its `id` in the file, or `seed_N` with its number there.
      task: its instruction with the first of its instances.
      classification: whether it is one, as the file says; None where it does not.
    """

    name: str
    task: Instruction
    classification: bool | None = None


class Drawn(NamedTuple):
    """What a prompt is made with: its examples and their names, and its topic or ``""``."""

    names: tuple[str, ...]
    tasks: tuple[Instruction, ...]
    topic: str


class Made(NamedTuple):
    """A record that was written: its name, and the topic of its prompt."""

    name: str
    task: Instruction
    topic: str


def read_seeds(settings: Settings) -> list[Seed]:
    """The seed tasks.

    Raises:
      UserError: a file that cannot be read, a chat or a task without an answer in it, too few tasks, or for
        self-instruct's own mode none that is marked as a classification, or none that is marked as none.
    """
    path, seeds, names = settings.seeds, list[Seed](), set[str]()
    for value in read_values(path):
        located = next(records_of(value))
        task, remedy = located.record, "correct or delete that record"
        if not isinstance(task, Instruction):
            raise UserError(located.place, expected="an instruction with its output", found="a chat", remedy=remedy)
        if not task.instruction.strip() or not task.output.strip():
            expected = "an instruction with an output, to show to the model"
            raise UserError(located.place, expected=expected, found="an empty one", remedy=remedy)
        name, kind = value.value.get("id"), value.value.get("is_classification")
        name = name if isinstance(name, str) and name not in names else f"seed_{value.number}"
        names.add(name)
        seeds.append(Seed(name, task, kind if isinstance(kind, bool) else None))
    if len(seeds) < settings.examples:
        expected, remedy = f"at least {settings.examples} tasks, the examples of a prompt", "give a larger file"
        raise UserError(str(path), expected=expected, found=str(len(seeds)), remedy=remedy)
    if settings.mode == "self_instruct" and {True, False} - {seed.classification for seed in seeds}:
        raise UserError(
            str(path),
            expected="tasks of both kinds, marked with `is_classification`, for --mode=self_instruct",
            found="only one kind or no marks",
            remedy="mark the tasks, or use --mode=alpaca",
        )
    return seeds


def read_topics(path: Path | None) -> list[str]:
    """The topics in a file, one a line; none without a file.

    Raises:
      UserError: a file that cannot be read, is not text, or is empty.
    """
    if path is None:
        return []
    try:
        with explain_os_errors(path):
            topics = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(str(path), expected="text in UTF-8", found=str(error), remedy="convert the file") from error
    if not topics:
        raise UserError(
            str(path), expected="topics, one a line", found="none", remedy="check that it is the right file"
        )
    return topics


class Examples:
    """Draws the examples of prompt after prompt, from the seeds and from what has been settled as made.

    What is drawn depends on the seed of the run, the number of the request and what was settled, and on nothing else.
    """

    def __init__(self, settings: Settings, seeds: Sequence[Seed], topics: Sequence[str]):
        """Nothing made yet."""
        self._settings, self._seeds, self._topics = settings, seeds, topics
        self._made = list[Made]()
        self._by_topic = Counter[str]()
        self._asked = Counter[str]()  # prompts with a topic whose records are not settled
        self._settled = 0  # prompts

    def settle(self, drawn: Sequence[Drawn], made: Sequence[Made]) -> None:
        """Takes in what a request has brought."""
        self._settled += len(drawn)
        self._asked.subtract(prompt.topic for prompt in drawn)
        self._by_topic.update(record.topic for record in made)
        if self._settings.most_machine_tasks:
            self._made.extend(made)

    def draw(self, request: int, prompts: int) -> list[Drawn]:
        """What the prompts of a request are made with."""
        generator = random.Random(f"{self._settings.seed}/{request}")
        return [self._draw(generator) for _ in range(prompts)]

    def _draw(self, generator: random.Random) -> Drawn:
        machine = generator.sample(self._made, min(self._settings.most_machine_tasks, len(self._made)))
        human = generator.sample(self._seeds, self._settings.examples - len(machine))
        examples = [(one.name, one.task) for one in human] + [(one.name, one.task) for one in machine]
        generator.shuffle(examples)
        names, tasks = zip(*examples, strict=True)
        return Drawn(names, tasks, self._least_topic())

    def _least_topic(self) -> str:
        """The topic with the fewest records, those expected of prompts under way included; the first of equal ones."""
        if not self._topics:
            return ""
        # Before anything is known, any yield will do: topics then come in turn.
        mean = self._by_topic.total() / self._settled if self._settled else 1.0
        topic = min(self._topics, key=lambda topic: self._by_topic[topic] + mean * self._asked[topic])
        self._asked[topic] += 1
        return topic
