"""Reads instruction files: a JSON list, JSON lines, or self-instruct tasks, all as one `Instruction` after another."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import explain_os_errors, read_json, read_json_lines

_FORMS = "a JSON list or JSON lines of objects with `instruction`, `input` (may be missing) and `output`"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One task and its answer; `input` is the material the task is about, or empty."""

    instruction: str
    input: str
    output: str


def read_instructions(path: str | Path) -> Iterator[Instruction]:
    """The records of an instruction file, in order.

    The content decides the form, not the name: a file that begins with `[` is a JSON list, any other is JSON lines.
    A record is `{"instruction": …, "input": …, "output": …}`, its `input` optional, or a self-instruct task
    `{"instruction": …, "instances": [{"input": …, "output": …}, …]}`, which gives one `Instruction` for each instance.
    Other fields are passed over. An empty answer is not a fault here: it is dropped, and counted, when tokenised.

    Raises:
      UserError: a fault of structure, with the file and the line (or the record's number in a list).
    """
    where = "record" if _begins_with_bracket(path) else "line"
    empty = True
    for number, record in _records(path) if where == "record" else read_json_lines(path):
        empty = False
        yield from _instructions_of(record, f"{path}, {where} {number}")
    if empty:
        raise UserError(str(path), expected=_FORMS, found="no record at all", remedy="check that it is the right file")


def _begins_with_bracket(path: str | Path) -> bool:
    """Whether the first character of the file, white space and byte order mark aside, opens a JSON list."""
    with explain_os_errors(path), open(path, "rb") as file:
        while block := file.read(4096):
            if text := block.removeprefix(b"\xef\xbb\xbf").lstrip():
                return text.startswith(b"[")
    return False


def _records(path: str | Path) -> Iterator[tuple[int, Any]]:
    yield from enumerate(read_json(path), start=1)


def _instructions_of(record: Any, place: str) -> Iterator[Instruction]:
    """The one instruction of a record, or those of a self-instruct task."""
    if not isinstance(record, dict):
        _refuse(place, "an object with `instruction` and `output`", shorten(record))
    instruction = _text(record, "instruction", place)
    if "instances" not in record:
        yield Instruction(instruction, _text(record, "input", place, optional=True), _text(record, "output", place))
        return
    instances = record["instances"]
    if not isinstance(instances, list) or not instances:
        _refuse(place, "`instances` to be a list with at least one element", shorten(instances))
    for number, instance in enumerate(instances, start=1):
        inner = f"{place}, instance {number}"
        if not isinstance(instance, dict):
            _refuse(inner, "an object with `input` and `output`", shorten(instance))
        yield Instruction(instruction, _text(instance, "input", inner, optional=True), _text(instance, "output", inner))


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
    try:
        value.encode()
    except UnicodeEncodeError as error:
        _refuse(place, f"`{field}` to be a text", f"half of a surrogate pair ({shorten(value[error.start])}) in it")
    return value


def _refuse(place: str, expected: str, found: str) -> NoReturn:
    raise UserError(place, expected=expected, found=found, remedy="correct or delete that record")
