"""What visitors of the demo thought of the answers: votes and flags, in one SQLite file.

Each opinion is one row with the whole of what it is about, so that the file can be read without the server's logs. A
row is written in a transaction of its own; the write-ahead log keeps what was written through a crash, and lets several
servers write to one file.
"""

import contextlib
import dataclasses
import datetime
import json
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from alpaca_jax.support.database import connected, explain_database_errors, make_or_recognise, reading, transaction
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import explain_os_errors

# Why an answer may be flagged, and what the file calls it.
REASONS = {
    "harmful": "It is harmful, hateful or unsafe",
    "false": "It states something false as a fact",
    "private": "It gives away private information",
    "copied": "It looks copied from somewhere",
    "other": "Something else",
}
LONGEST_DETAIL = 2_000  # characters of a visitor's own words
LONGEST_TEXT = 200_000  # characters of an instruction, an input or an answer; the rest is cut off

_APPLICATION, _VERSION = 0x616C7061, 1  # what SQLite's header says of the file: "alpa", and the form of its table
_EXPECTED = "a file of flags and votes"
_PAGES = 262_144  # of 4 KiB: the file takes at most 1 GiB of the disk
_TABLE = """
CREATE TABLE IF NOT EXISTS feedback (
    answer_id TEXT NOT NULL, kind TEXT NOT NULL, time TEXT NOT NULL, value TEXT NOT NULL, detail TEXT NOT NULL,
    model TEXT NOT NULL, checkpoint TEXT NOT NULL, instruction TEXT NOT NULL, input TEXT NOT NULL, answer TEXT NOT NULL,
    finish_reason TEXT NOT NULL, parameters TEXT NOT NULL,
    PRIMARY KEY (answer_id, kind)
) STRICT
"""


@dataclasses.dataclass(frozen=True)
class Answered:
    """An answer as a visitor saw it.

    Attributes:
      id: what the server calls this one answer.
      model: its model's name.
      checkpoint: the hash of the weights.
      instruction: what was asked.
      input: the text that the instruction is about; may be empty.
      answer: the text that came out.
      finish_reason: why it ended.
      parameters: of decoding.
    """

    id: str
    model: str
    checkpoint: str
    instruction: str
    input: str
    answer: str
    finish_reason: str
    parameters: Mapping[str, float | int]


class FeedbackRefused(Exception):
    """An opinion that was not written; the message is for the visitor."""


class Feedback:
    """Writes opinions to a file, from any thread.

    Args:
      path: the file; it is made, for its owner alone, if it does not exist.

    Raises:
      UserError: it cannot be written, or is something else.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        make_or_recognise(self.path, _EXPECTED)
        with explain_database_errors(self.path, _EXPECTED):
            # Looked at without a right to write: the first transaction changes the header of any database.
            with reading(self.path) as connection:
                if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    _check_kind(connection, self.path)
            self._make_table()

    def _make_table(self) -> None:
        with self._transaction() as connection:
            connection.execute(_TABLE)
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {_VERSION}")

    def vote(self, answered: Answered, value: Literal["up", "down"]) -> None:
        """Keeps a thumb up or down; a second vote on the same answer replaces the first.

        Raises:
          FeedbackRefused: it could not be written.
        """
        if value not in ("up", "down"):
            raise FeedbackRefused("A vote is either up or down.")
        self._write(answered, "vote", value, "")

    def flag(self, answered: Answered, reason: str, detail: str = "") -> None:
        """Keeps a complaint about an answer; a second one replaces the first.

        Args:
          answered: the answer.
          reason: one of `REASONS`.
          detail: the visitor's own words.

        Raises:
          FeedbackRefused: no such reason, too many words, or it could not be written.
        """
        if reason not in REASONS:
            raise FeedbackRefused("Please choose a reason.")
        if len(detail) > LONGEST_DETAIL:
            raise FeedbackRefused(f"Please use at most {LONGEST_DETAIL:,} characters.")
        self._write(answered, "flag", reason, detail)

    def _write(self, answered: Answered, kind: str, value: str, detail: str) -> None:
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        texts = [answered.instruction, answered.input, answered.answer]
        row = [answered.id, kind, time, value, detail, answered.model, answered.checkpoint]
        row += [text[:LONGEST_TEXT] for text in texts]
        row += [answered.finish_reason, json.dumps(dict(answered.parameters))]
        # A browser can send half of a surrogate pair, which UTF-8 has no bytes for.
        row = [text.encode("utf-8", "replace").decode() for text in row]
        try:
            with self._transaction() as connection:
                places = ", ".join("?" * len(row))
                connection.execute(f"INSERT OR REPLACE INTO feedback VALUES ({places})", row)
        except sqlite3.Error as error:
            raise FeedbackRefused("This could not be saved; the server's disk may be full or busy.") from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with connected(self.path) as connection:
            connection.execute(f"PRAGMA max_page_count = {_PAGES}")
            with transaction(connection):
                yield connection


def export_feedback(path: str | Path, out: str | Path) -> int:
    """Writes what visitors said to a JSON-lines file, the oldest first; the server may be running.

    Args:
      path: the file of `Feedback`.
      out: where the lines go: one object for each vote or flag, with its `kind`, `value` (up, down, or the reason of a
        flag) and `detail`, and the fields of `Answered`.

    Returns:
      How many lines.

    Raises:
      UserError: `path` does not exist or is something else, or `out` cannot be written.
    """
    path, out = Path(path), Path(out)
    if not path.is_file():
        raise UserError(str(path), expected="the file of --feedback", found="none", remedy="check the path")
    with explain_os_errors(out):
        descriptor, partial = tempfile.mkstemp(prefix=f".{out.name}.", suffix=".partial", dir=out.absolute().parent)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                count = 0
                for row in _rows(path):
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    count += 1
            Path(partial).replace(out)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
    return count


def _rows(path: Path) -> Iterator[dict[str, object]]:
    with explain_database_errors(path, _EXPECTED), reading(path) as connection:
        _check_kind(connection, path)
        connection.row_factory = sqlite3.Row
        for row in connection.execute("SELECT * FROM feedback ORDER BY time, rowid"):
            yield dict(row) | {"parameters": json.loads(row["parameters"])}


def _check_kind(connection: sqlite3.Connection, path: Path) -> None:
    marks = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
    if marks != [_APPLICATION, _VERSION]:
        raise UserError(str(path), expected=_EXPECTED, found="another database", remedy="choose another file")
