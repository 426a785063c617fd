"""Reads instruction files: instructions with their answers, self-instruct tasks and chats, one after another."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, TypeAlias, cast

from alpaca_jax.data.record_files import Value, read_values
from alpaca_jax.support.errors import UserError, shorten

_FORMS = "a JSON list or JSON lines of objects with `instruction` and `output`, with `instances`, or with `messages`"

Role: TypeAlias = Literal["system", "user", "assistant"]


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One task and its answer; `input` is the material the task is about, or empty."""

    instruction: str
    input: str
    output: str

    @property
    def question(self) -> str:
        """All that is asked, as one text: the instruction, and after a blank line its input."""
        return f"{self.instruction}\n\n{self.input}" if self.input else self.instruction

    def identity(self) -> list[str]:
        """The texts that make it this record and no other."""
        return [self.instruction, self.input, self.output]


class Message(NamedTuple):
    """What one side says in a chat."""

    role: Role
    content: str


@dataclasses.dataclass(frozen=True)
class Conversation:
    """A chat: perhaps a system message, then user and assistant in turn, the user first.

    Those to train on end with the assistant, those to be answered with the user.

    Raises:
      ValueError: another order of roles.
    """

    messages: tuple[Message, ...]

    def __post_init__(self) -> None:
        """Checks the order of the roles."""
        turns = self.messages[1:] if self.messages and self.messages[0].role == "system" else self.messages
        for number, message in enumerate(turns):
            wanted = "assistant" if number % 2 else "user"
            if message.role != wanted:
                before = turns[number - 1].role if number else "beginning"
                raise ValueError(f"{message.role!r} where {wanted!r} is due, after the {before}")
        if not turns:
            raise ValueError("no message of a user")

    @property
    def system(self) -> str | None:
        """The system message's text, if there is one."""
        return self.messages[0].content if self.messages[0].role == "system" else None

    def identity(self) -> list[str]:
        """The texts that make it this record and no other."""
        return [text for message in self.messages for text in message]


Record: TypeAlias = Instruction | Conversation


class Located(NamedTuple):
    """A record and where it stands in its file.

    Attributes:
      record: what was read.
      path: the file.
      line: where the record begins, from 1.
      number: of the record in the file, from 1.
      listed: whether the file is a JSON list rather than a record a line.
      instance: its number in a self-instruct task, from 1; otherwise None.
    """

    record: Record
    path: str
    line: int
    number: int
    listed: bool
    instance: int | None = None

    @property
    def place(self) -> str:
        """The place in words, for a message."""
        place = Value(None, self.path, self.line, self.number, self.listed).place
        return place if self.instance is None else f"{place}, instance {self.instance}"


def read_records(path: str | Path) -> Iterator[Located]:
    """The records of a file, in order, read as they are asked for; see `record_files.read_values` for its forms.

    A record is one of

        {"instruction": …, "input": …, "output": …}                            `input` may be missing or null
        {"instruction": …, "instances": [{"input": …, "output": …}, …]}        an `Instruction` for each instance
        {"messages": [{"role": …, "content": …}, …]}                           a `Conversation`, assistant last

    Other fields are passed over. An empty answer is not a fault here: it is dropped, and counted, when tokenised.

    Raises:
      UserError: a fault of structure, with the file and the line, and in a list the record's number.
    """
    empty = True
    for value in read_values(path):
        empty = False
        yield from records_of(value)
    if empty:
        raise UserError(str(path), expected=_FORMS, found="no record at all", remedy="check that it is the right file")


def records_of(value: Value) -> Iterator[Located]:
    """The one record in a value, or those of a self-instruct task.

    Raises:
      UserError: as `read_records`.
    """
    record, place = value.value, value.place
    if not isinstance(record, dict):
        _refuse(place, _FORMS, shorten(record))
    if "messages" in record:
        yield Located(_conversation(record["messages"], place), *value[1:])
        return
    instruction = _text(record, "instruction", place)
    if "instances" not in record:
        answered = Instruction(
            instruction, _text(record, "input", place, optional=True), _text(record, "output", place)
        )
        yield Located(answered, *value[1:])
        return
    instances = record["instances"]
    if not isinstance(instances, list) or not instances:
        _refuse(place, "`instances` to be a list with at least one element", shorten(instances))
    for number, instance in enumerate(instances, start=1):
        inner = f"{place}, instance {number}"
        if not isinstance(instance, dict):
            _refuse(inner, "an object with `input` and `output`", shorten(instance))
        answered = Instruction(
            instruction, _text(instance, "input", inner, optional=True), _text(instance, "output", inner)
        )
        yield Located(answered, *value[1:], instance=number)


def with_empty_answers(value: Value) -> Value:
    """The value with an empty answer wherever there is none, as in files of questions."""
    fields = value.value
    if not isinstance(fields, dict):
        return value
    if "instances" not in fields and "messages" not in fields:
        return value._replace(value={"output": "", **fields})
    if isinstance(fields.get("instances"), list):
        instances = [{"output": "", **one} if isinstance(one, dict) else one for one in fields["instances"]]
        return value._replace(value=fields | {"instances": instances})
    if _ends_with_user(fields.get("messages")):
        answer = {"role": "assistant", "content": ""}
        return value._replace(value=fields | {"messages": [*fields["messages"], answer]})
    return value


def _ends_with_user(messages: Any) -> bool:
    return bool(
        isinstance(messages, list)
        and messages
        and isinstance(messages[-1], dict)
        and messages[-1].get("role") == "user"
    )


def conversation_of(messages: Any, place: str) -> Conversation:
    """The chat in a JSON list of messages, which may end with either side.

    Raises:
      UserError: a fault of structure, with the place.
    """
    if not isinstance(messages, list) or not messages:
        _refuse(place, "`messages` to be a list with at least one element", shorten(messages))
    read = []
    for number, message in enumerate(messages, start=1):
        inner = f"{place}, message {number}"
        if not isinstance(message, dict):
            _refuse(inner, "an object with `role` and `content`", shorten(message))
        role = _text(message, "role", inner)
        if role not in ("system", "user", "assistant"):
            _refuse(inner, "`role` to be system, user or assistant", shorten(role))
        read.append(Message(cast(Role, role), _text(message, "content", inner)))
    try:
        return Conversation(tuple(read))
    except ValueError as error:
        _refuse(place, "perhaps a system message, then user and assistant in turn, the user first", str(error))


def _conversation(messages: Any, place: str) -> Conversation:
    conversation = conversation_of(messages, place)
    if conversation.messages[-1].role != "assistant":
        _refuse(place, "`messages` to end with the assistant's answer", "a user's message at the end")
    return conversation


def _text(record: dict[str, Any], field: str, place: str, optional: bool = False) -> str:
    """A field's text; an optional one may be missing or null."""
    value = record.get(field)
    if optional and value is None:
        return ""
    if field not in record:
        _refuse(place, f"a field `{field}`", f"only {shorten(list(record))}")
    if not isinstance(value, str):
        _refuse(place, f"`{field}` to be a text", shorten(value))
    if "\0" in value:
        _refuse(place, f"`{field}` to be a text", "a NUL character in it")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            _refuse(place, f"`{field}` to be a text", f"half of a surrogate pair ({shorten(value[error.start])}) in it")
    return value


def _refuse(place: str, expected: str, found: str) -> NoReturn:
    raise UserError(place, expected=expected, found=found, remedy="correct or delete that record")
