"""Votes of people in an SQLite file: one for each annotator and pair, on disk before it is confirmed.

The file names the pair file that it belongs to by hash. Several tabs, and several servers, may write to it at once: a
write is one short transaction, and a second vote on the same pair is refused by the file itself.
"""

import contextlib
import datetime
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, TypeAlias

from alpaca_jax.evaluation.pairs import Letter, Pairs, Shown, vote_line
from alpaca_jax.support.database import connected, explain_database_errors, make_or_recognise, transaction
from alpaca_jax.support.errors import UserError, shorten

Verdict: TypeAlias = Literal["a", "b", "tie"]

_APPLICATION_ID = 0x616A766F  # in the file's header: "ajvo"
_EXPECTED = "an SQLite file with votes"
_TABLES = """
CREATE TABLE origin (pairs_sha256 TEXT NOT NULL) STRICT;
CREATE TABLE votes (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  annotator TEXT NOT NULL,
  pair TEXT NOT NULL,
  "left" TEXT NOT NULL CHECK ("left" IN ('a', 'b')),
  vote TEXT NOT NULL CHECK (vote IN ('a', 'b', 'tie')),
  comment TEXT NOT NULL,
  time TEXT NOT NULL,
  UNIQUE (annotator, pair)
) STRICT;
"""


class Vote(NamedTuple):
    """A vote, in the form of its row: the pair's id, which answer stood on the left, and which was preferred."""

    annotator: str
    pair: str
    left: Letter
    vote: Verdict
    comment: str
    time: str


class Votes:
    """The votes on one pair file.

    Args:
      path: the file; it is made where there is none.
      pairs: what is voted on.

    Raises:
      UserError: the file is something else, belongs to another pair file, or holds a vote on an unknown pair.
    """

    def __init__(self, path: Path, pairs: Pairs):
        self.path = path
        make_or_recognise(path, _EXPECTED)
        with explain_database_errors(path, _EXPECTED), self._connection() as connection, transaction(connection):
            self._make_or_check(connection, pairs)

    def add(self, annotator: str, shown: Shown, vote: Verdict, comment: str) -> bool:
        """Saves a vote; when this returns, it is on disk.

        Returns:
          Whether it is the annotator's vote on this pair now: not where there was another before.
        """
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        row = Vote(annotator, shown.pair.id, shown.left, vote, comment, time)
        with self._connection() as connection, transaction(connection):
            connection.execute(
                'INSERT INTO votes (annotator, pair, "left", vote, comment, time) VALUES (?, ?, ?, ?, ?, ?) '
                "ON CONFLICT (annotator, pair) DO NOTHING",
                row,
            )
            saved = connection.execute(
                "SELECT vote, comment FROM votes WHERE annotator = ? AND pair = ?", (annotator, shown.pair.id)
            ).fetchone()
        return saved == (vote, comment)

    def take_back(self, annotator: str, pair: str) -> Vote | None:
        """Removes the annotator's latest vote.

        Args:
          annotator: whose.
          pair: the pair that it must be on.

        Returns:
          The vote; None, and nothing is removed, where the latest is on another pair or there is none.
        """
        with self._connection() as connection, transaction(connection):
            row = connection.execute(
                'SELECT number, annotator, pair, "left", vote, comment, time FROM votes WHERE annotator = ? '
                "ORDER BY number DESC LIMIT 1",
                (annotator,),
            ).fetchone()
            if row is None or row[2] != pair:
                return None
            connection.execute("DELETE FROM votes WHERE number = ?", row[:1])
        return Vote(*row[1:])

    def all(self, annotator: str | None = None) -> list[Vote]:
        """The votes in the order in which they were given, of one annotator or of all."""
        query = 'SELECT annotator, pair, "left", vote, comment, time FROM votes'
        with self._connection() as connection:
            if annotator is None:
                rows = connection.execute(f"{query} ORDER BY number")
            else:
                rows = connection.execute(f"{query} WHERE annotator = ? ORDER BY number", (annotator,))
            return [Vote(*row) for row in rows]

    def annotators(self) -> dict[str, int]:
        """How many votes each has given, by name, in the order of their first votes."""
        with self._connection() as connection:
            rows = connection.execute("SELECT annotator, COUNT(*) FROM votes GROUP BY annotator ORDER BY MIN(number)")
            return dict(rows.fetchall())

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with connected(self.path) as connection:
            connection.execute("PRAGMA synchronous = FULL")  # a vote outlives a power cut, too
            yield connection

    def _make_or_check(self, connection: sqlite3.Connection, pairs: Pairs) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if not application and not tables:
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute("INSERT INTO origin VALUES (?)", (pairs.sha256,))
        elif application != _APPLICATION_ID:
            self._refuse(_EXPECTED, "one of another program", "choose another file")
        if connection.execute("SELECT pairs_sha256 FROM origin").fetchall() != [(pairs.sha256,)]:
            self._refuse("votes on this pair file", "votes on another one", "name the pair file that it belongs to")
        known = {pair.id for pair in pairs.pairs}
        for annotator, pair in connection.execute("SELECT annotator, pair FROM votes ORDER BY number"):
            if pair not in known:
                found = f"a vote of {shorten(annotator)} on {shorten(pair)}"
                self._refuse("votes on the pairs of the pair file", found, "use a copy from before it was changed")

    def _refuse(self, expected: str, found: str, remedy: str) -> NoReturn:
        raise UserError(str(self.path), expected=expected, found=found, remedy=remedy)


def as_lines(votes: Votes, pairs_path: Path, pairs: Pairs, out: Path) -> list[dict[str, Any]]:
    """The votes in the form of a file of votes, for `evaluate report`; `out` is where they will lie."""
    by_id = {pair.id: pair for pair in pairs.pairs}
    return [
        vote_line(
            Shown(by_id[vote.pair], vote.left),
            vote.annotator,
            vote.vote,
            pairs=(pairs_path, pairs),
            votes=out,
            comment=vote.comment,
            time=vote.time,
        )
        for vote in votes.all()
    ]
