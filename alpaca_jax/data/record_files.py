"""The JSON values in a file of any size, one after another, with their places: a list or lines, plain or compressed."""

import codecs
import io
import itertools
import re
from collections.abc import Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import (
    LONGEST_LINE,
    STRICT_DECODER,
    json_fault,
    json_lines,
    open_decompressed,
    refuse_line,
)

_BLOCK = 2**18
_WHITE_SPACE = re.compile(r"[ \t\n\r]*")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Value(NamedTuple):
    """A JSON value and where it stands.

    Attributes:
      value: what the JSON says.
      path: the file.
      line: where the value begins in it, from 1.
      number: of the value in the file, from 1.
      listed: whether the file is a list; otherwise it holds a value a line.
    """

    value: Any
    path: str
    line: int
    number: int
    listed: bool

    @property
    def place(self) -> str:
        """The place in words, for a message."""
        return (
            f"{self.path}, record {self.number} (line {self.line})" if self.listed else f"{self.path}, line {self.line}"
        )


def read_values(path: str | Path) -> Iterator[Value]:
    """The values in a file, in order, read as they are asked for.

    The content decides the form, not the name: what begins with the bytes of gzip or Zstandard is decompressed; what
    then begins with `[` is a JSON list; any other is JSON lines. At no time is more held than one block and one value.

    Raises:
      UserError: no such file, not readable, damaged, not JSON, or a value of more than 64 MiB, with its place.
    """
    with open_decompressed(path) as file:
        listed, line = _begins_list(file)
        if listed:
            yield from _ListReader(file, str(path), line).values()
        else:
            for number, (at, value) in enumerate(json_lines(file, path, line), start=1):
                yield Value(value, str(path), at, number, listed=False)


def is_json_list(path: str | Path) -> bool:
    """Whether a file is a JSON list, as `read_values` decides.

    Raises:
      UserError: no such file, not readable, or damaged.
    """
    with open_decompressed(path) as file:
        return _begins_list(file)[0]


def _begins_list(file: io.BufferedReader) -> tuple[bool, int]:
    """Whether a list begins after the white space, which is passed over, and on which line."""
    line = 1
    if file.peek(3).startswith(_BYTE_ORDER_MARK):
        file.read(3)
    while block := file.peek(1):
        text = block.lstrip(b" \t\r\n")
        space = block[: len(block) - len(text)]
        line += space.count(b"\n")
        file.read(len(space))
        if text:
            return text.startswith(b"["), line
    return False, line


class _ListReader:
    """Cuts a JSON list into its elements: each is decoded from the text at hand, or again when more of it is there."""

    def __init__(self, file: io.BufferedReader, path: str, line: int):
        """Begins at the opening bracket, in `line`."""
        self._file, self._path = file, path
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._at, self._ended = "", 0, False
        self._line, self._counted = line, 0  # the line at the character `_counted` of the text

    def values(self) -> Iterator[Value]:
        """The elements."""
        self._skip_space()
        self._at += 1  # the opening bracket
        for number in itertools.count(1):
            if self._skip_space() == "]" and number == 1:
                break
            line = self._line_at(self._at)
            yield Value(self._element(), self._path, line, number, listed=True)
            mark = self._skip_space()
            if mark == "]":
                break
            if mark != ",":
                self._refuse(self._at, "a comma or the end of the list", repr(mark) if mark else "the end of the file")
            self._at += 1
        self._at += 1
        if mark := self._skip_space():
            self._refuse(self._at, "nothing after the end of the list", repr(mark))

    def _element(self) -> Any:
        """The next element."""
        while True:
            try:
                value, end = STRICT_DECODER.raw_decode(self._text, self._at)
            except JSONDecodeError as error:
                # An error at the end of the text, or a string without an end, may be for want of the rest.
                cut = error.pos > len(self._text) - 16 or error.msg.startswith("Unterminated string")
                if not cut or not self._read_more():
                    self._refuse(error.pos, "JSON", json_fault(error.msg), error)
            except (ValueError, RecursionError) as error:
                self._refuse(self._at, "JSON", json_fault(error), error)
            else:
                if end < len(self._text) or not self._read_more():
                    self._at = end
                    return value

    def _skip_space(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            space = _WHITE_SPACE.match(self._text, self._at)
            assert space is not None, "the pattern matches nothing too"
            self._at = space.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_more():
                return ""

    def _read_more(self) -> bool:
        """Adds a block, as large as the unfinished element, to what is left of the text; False at the file's end."""
        if self._ended:
            return False
        left = len(self._text) - self._at
        if left > LONGEST_LINE:
            self._refuse(self._at, f"records of at most {LONGEST_LINE // 2**20} MiB", "a longer one")
        self._line_at(self._at)
        self._text, self._at, self._counted = self._text[self._at :], 0, 0
        block = self._file.read(max(_BLOCK, left))
        self._ended = not block
        try:
            self._text += self._decoder.decode(block, final=self._ended)
        except UnicodeDecodeError as error:
            before = self._line_at(len(self._text)) + block[: error.start].count(b"\n")
            refuse_line(self._path, before, "text in UTF-8", json_fault(error), error)
        return True

    def _line_at(self, at: int) -> int:
        """The line of a character at or after the last one asked for."""
        self._line += self._text.count("\n", self._counted, at)
        self._counted = at
        return self._line

    def _refuse(self, at: int, expected: str, found: str, cause: BaseException | None = None) -> NoReturn:
        raise UserError(
            f"{self._path}, line {self._line_at(at)}",
            expected=expected,
            found=found,
            remedy="correct the file there, or check that it is the right one",
        ) from cause
