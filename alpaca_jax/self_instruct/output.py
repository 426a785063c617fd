"""The records and, line by line beside them, where each comes from: both grow as the run does, and continue."""

import json
from pathlib import Path
from typing import Any, BinaryIO

from alpaca_jax.data.instructions import Instruction
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import explain_os_errors


class Output:
    """OUT.jsonl in the form of Alpaca, and OUT.provenance.jsonl, as a context manager.

    The log of requests is what counts: from its answers come the same records again. Those that the file already holds
    are compared with them, not written again.
    """

    def __init__(self, records: Path, provenance: Path):
        """Opens both files; a last line without an end is cut off.

        Raises:
          UserError: a folder that cannot be written.
        """
        self._path = records
        self._records, self._there = _open(records)
        self._provenance, sources = _open(provenance)
        self._with_source = len(sources)
        self.count = 0

    def __enter__(self) -> "Output":
        """The files, open."""
        return self

    def __exit__(self, *unused: object) -> None:
        """Closes them."""
        self._records.close()
        self._provenance.close()

    @property
    def next_has_source(self) -> bool:
        """Whether the next record's provenance is in the file, so that it need not be found out."""
        return self.count < self._with_source

    @property
    def records(self) -> int:
        """How many the file holds; more than this run has come to, where it was asked for fewer than one before."""
        return max(self.count, len(self._there))

    def write(self, record: Instruction, source: dict[str, Any]) -> None:
        """Adds a record and its provenance, each unless it is there.

        Raises:
          UserError: another record is there, or the disk is full.
        """
        line = _line({"instruction": record.instruction, "input": record.input, "output": record.output})
        if not self.next_has_source:
            self._append(self._provenance, _line(source))
        if self.count >= len(self._there):
            self._append(self._records, line)
        elif self._there[self.count] != line:
            raise UserError(
                f"{self._path}, line {self.count + 1}",
                expected="the record that the log of requests gives",
                found="another",
                remedy="work on a copy: move that file away and run the same command, and it is written again",
            )
        self.count += 1

    def _append(self, file: BinaryIO, line: bytes) -> None:
        with explain_os_errors(self._path):
            file.write(line)
            file.flush()


def _line(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode()


def _open(path: Path) -> tuple[BinaryIO, list[bytes]]:
    """A file to add lines to, and those it has."""
    with explain_os_errors(path):
        file = open(path, "a+b")  # noqa: SIM115 - closed by `Output`
        file.seek(0)
        lines = file.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            file.truncate(sum(map(len, lines[:-1])))
            lines.pop()
        return file, lines
