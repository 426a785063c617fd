"""What models are asked, and what they answered: the instruction files and answer files of an evaluation."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from alpaca_jax.data.instructions import Conversation, Instruction, Message, Record, records_of, with_empty_answers
from alpaca_jax.data.record_files import Value, read_values
from alpaca_jax.support.errors import UserError, shorten

# Where files of others say what an instruction is about, and who answered.
_CATEGORIES = ("category", "motivation_app", "dataset")
_MODELS = ("generator", "model")


@dataclasses.dataclass(frozen=True)
class Question:
    """Something to be answered.

    Attributes:
      id: its name in the file, or `question N` with its number there.
      record: what a model is given; an instruction's output, and a chat's last answer, are left out.
      category: what it is about, or empty.
      place: where it stands, for messages.
    """

    id: str
    record: Record
    category: str
    place: str

    @property
    def instruction(self) -> str:
        """What is asked; of a chat its turns, one after another, where there are several."""
        if isinstance(self.record, Instruction):
            return self.record.instruction
        messages = self.record.messages
        return messages[0].content if len(messages) == 1 else "\n\n".join(map(_turn, messages))

    @property
    def input(self) -> str:
        """The material that the instruction is about, or empty."""
        return self.record.input if isinstance(self.record, Instruction) else ""

    @property
    def text(self) -> str:
        """All that is asked, as one text."""
        return self.record.question if isinstance(self.record, Instruction) else self.instruction

    @property
    def key(self) -> str:
        """What is the same in two files that hold the same question, with the input apart or joined to it."""
        return " ".join(self.text.split())


@dataclasses.dataclass(frozen=True)
class Answered:
    """A question with what a model answered, and the model's name where the file says it."""

    question: Question
    output: str
    model: str


def read_questions(path: Path) -> list[Question]:
    """The questions of an instruction file of any form that training data has; answers need not be there.

    A self-instruct task is a question for each of its instances.

    Raises:
      UserError: a fault of structure, an empty instruction, an id that stands twice, or no question at all.
    """
    return _distinct(
        path, [question for value in read_values(path) for question, _ in _questions_of(with_empty_answers(value))]
    )


def read_answers(path: Path) -> list[Answered]:
    """The answers in a file: what `evaluate answer` wrote, or any list or lines with `output` or `response`.

    Raises:
      UserError: as `read_questions`, or a record without an answer.
    """
    answers = []
    for value in read_values(path):
        fields = value.value
        if isinstance(fields, dict) and "response" in fields and "output" not in fields:
            value = value._replace(value=fields | {"output": fields["response"]})
        if not isinstance(value.value, dict) or not {"output", "instances", "messages"} & value.value.keys():
            expected = "an object with `instruction` and `output` (or `response`)"
            _refuse(value.place, expected, shorten(list(fields) if isinstance(fields, dict) else fields))
        answers += [Answered(question, output, _first(fields, _MODELS)) for question, output in _questions_of(value)]
    _distinct(path, [answer.question for answer in answers])
    return answers


def answers_to(questions: Sequence[Question], path: Path, asked_in: Path) -> list[Answered]:
    """The answers of a file, in the order of the questions, which they must answer all and no others.

    Raises:
      UserError: as `read_answers`; another number of answers, or a question that the file has not got.
    """
    answers = read_answers(path)
    by_key: dict[str, list[Answered]] = {}
    for answer in answers:
        by_key.setdefault(answer.question.key, []).append(answer)
    found = [by_key[question.key].pop(0) if by_key.get(question.key) else None for question in questions]
    missing = [question for question, answer in zip(questions, found, strict=True) if answer is None]
    if missing or len(answers) != len(questions):
        of = f"{len(answers):,} answers"
        if missing:
            of += f", none to {len(missing):,} of these questions, such as {missing[0].id!r}: "
            of += shorten(missing[0].key)
        raise UserError(
            str(path),
            expected=f"one answer to each of the {len(questions):,} questions in {asked_in}",
            found=of,
            remedy="compare answers to the same instruction file",
        )
    return [answer for answer in found if answer is not None]


def _questions_of(value: Value) -> Iterator[tuple[Question, str]]:
    """The questions in a value, each with its answer."""
    fields = value.value
    located_records = list(records_of(value))
    given = fields.get("id")
    name = str(given) if isinstance(given, str | int) else f"question {value.number}"
    for located in located_records:
        record, output = _without_answer(located.record)
        suffix = f"/{located.instance}" if len(located_records) > 1 else ""
        question = Question(name + suffix, record, _first(fields, _CATEGORIES), located.place)
        if not question.text.strip():
            _refuse(located.place, "an instruction", "an empty one")
        yield question, output


def _without_answer(record: Record) -> tuple[Record, str]:
    if isinstance(record, Instruction):
        return dataclasses.replace(record, output=""), record.output
    return Conversation(record.messages[:-1]), record.messages[-1].content


def _turn(message: Message) -> str:
    return f"{message.role.capitalize()}: {message.content}"


def _first(fields: dict[str, Any], names: Sequence[str]) -> str:
    """The first of these fields that holds a text; none is empty."""
    return next((fields[name] for name in names if isinstance(fields.get(name), str)), "")


def _distinct(path: Path, questions: list[Question]) -> list[Question]:
    """The questions, each id of which is there once."""
    places: dict[str, str] = {}
    for question in questions:
        if question.id in places:
            _refuse(question.place, "an id of its own", f"{shorten(question.id)}, as in {places[question.id]}")
        places[question.id] = question.place
    if not questions:
        raise UserError(str(path), expected="instructions", found="none", remedy="check that it is the right file")
    return questions


def _refuse(place: str, expected: str, found: str) -> NoReturn:
    raise UserError(place, expected=expected, found=found, remedy="correct or delete that record")
