"""What a watermark keeps on disk, its secret key, and the files of texts to look for it in."""

import dataclasses
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from alpaca_jax.data.record_files import read_values
from alpaca_jax.generation.watermark import Watermark
from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import explain_os_errors, json_fault, parse_json

# A text may be this long, in characters: a book, and still looked through in seconds.
LONGEST_TEXT = 4_000_000

_KEY_BYTES = 32
_LONGEST_KEY_FILE = 4096
# What an endless file (a device, a pipe) is cut at.
_LONGEST_FILE = 4 * LONGEST_TEXT
_RECORDS, _COMPRESSED = (".jsonl", ".json"), (".gz", ".zst")
_FIELDS = ("output", "text")


class Text(NamedTuple):
    """A text and where it stands."""

    place: str
    text: str


def write_watermark(path: str | Path, gamma: float, delta: float, context_width: int) -> Watermark:
    """Makes a key from the system's source of randomness and writes it with its settings, for its owner's eyes alone.

    Raises:
      UserError: a value out of range, something is there already, or it cannot be written.
    """
    import json

    watermark = Watermark(secrets.token_bytes(_KEY_BYTES), gamma, delta, context_width)
    text = json.dumps({**dataclasses.asdict(watermark), "key": watermark.key.hex()}, indent=2) + "\n"
    with explain_os_errors(path):
        try:
            # Refuses what is there, a link too: answers marked with a key that is lost can no longer be recognised.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise UserError(
                str(path), expected="a file that does not exist yet", found="one", remedy="choose another name"
            ) from error
        try:
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            os.unlink(path)
            raise
    return watermark


def read_watermark(path: str | Path) -> Watermark:
    """The watermark whose key and settings `write_watermark` wrote.

    Raises:
      UserError: no such file, not readable, or not a key file; what it says is not shown, as it may be a secret.
    """
    with explain_os_errors(path), open(path, "rb") as file:
        content = file.read(_LONGEST_KEY_FILE + 1)
    if len(content) > _LONGEST_KEY_FILE:
        _refuse_key(path, f"more than {_LONGEST_KEY_FILE} bytes")
    try:
        value = parse_json(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        _refuse_key(path, "what is not JSON")
    fields = {field.name: field.type for field in dataclasses.fields(Watermark)}
    if not isinstance(value, dict) or value.keys() != fields.keys():
        _refuse_key(path, f"what does not have the fields {', '.join(fields)} and no others")
    try:
        key = bytes.fromhex(value["key"])
    except (TypeError, ValueError):
        _refuse_key(path, "a key that is not hexadecimal")
    for name in ("gamma", "delta", "context_width"):
        if type(value[name]) not in ((int,) if name == "context_width" else (int, float)):
            _refuse_key(path, f"a {name} that is not a number")
    try:
        return Watermark(**{**value, "key": key})
    except UserError as error:
        _refuse_key(path, f"{error.subject.removeprefix('--')}: {error.found} instead of {error.expected}")


def _refuse_key(path: str | Path, found: str) -> NoReturn:
    raise UserError(
        str(path),
        expected="a watermark's key file",
        found=found,
        remedy="give what `watermark key --out=FILE` made",
    ) from None


def holds_records(path: str | Path) -> bool:
    """Whether a file's name, .jsonl or .json, and .gz or .zst after it or not, says that it holds records."""
    path = Path(path)
    return (path.with_suffix("") if path.suffix in _COMPRESSED else path).suffix in _RECORDS


def read_texts(path: str | Path) -> Iterator[Text]:
    """The texts of a file, read as they are asked for.

    Records (see `holds_records`), a line each or in a list, have their text in the field `output`, or else `text`. Any
    other file is one text, in UTF-8; one line end at its end does not count.

    Raises:
      UserError: no such file, not readable, not text, a record without a text, or one that is too long, with its place.
    """
    if holds_records(path):
        for value in read_values(path):
            yield Text(value.place, _text_of(value.value, value.place))
        return
    with explain_os_errors(path), open(path, "rb") as file:
        content = file.read(_LONGEST_FILE + 1)
    try:
        text = content[:_LONGEST_FILE].decode("utf-8-sig").removesuffix("\n") if len(content) <= _LONGEST_FILE else None
    except ValueError as error:
        raise UserError(
            str(path), expected="text in UTF-8", found=json_fault(error), remedy="check that it is the right file"
        ) from error
    if text is None or len(text) > LONGEST_TEXT:
        _refuse_length(str(path))
    yield Text(str(path), text)


def _text_of(record: object, place: str) -> str:
    names = [name for name in _FIELDS if name in record] if isinstance(record, dict) else []
    text = record[names[0]] if isinstance(record, dict) and names else None
    if not isinstance(text, str):
        raise UserError(
            place, expected='{"output": TEXT} or {"text": TEXT}', found=shorten(record), remedy="give it a text"
        )
    if len(text) > LONGEST_TEXT:
        _refuse_length(place)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"half of a surrogate pair ({shorten(text[error.start])})"
        raise UserError(place, expected="a text in Unicode", found=found, remedy="correct it") from error
    return text


def _refuse_length(place: str) -> NoReturn:
    raise UserError(
        place, expected=f"at most {LONGEST_TEXT:,} characters in a text", found="more", remedy="cut it into parts"
    )
