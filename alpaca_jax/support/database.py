"""SQLite files in which people's words are kept: recognised, opened and changed in one way."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import explain_os_errors

_BEGINS = b"SQLite format 3\0"  # any of its files does
_PATIENCE = 10.0  # seconds to wait for another writer


def make_or_recognise(path: Path, expected: str) -> None:
    """Makes an empty file, for its owner alone, where there is none.

    Args:
      path: of the file.
      expected: what it should be, for the error.

    Raises:
      UserError: it is of another kind, or cannot be made.
    """
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        with open(descriptor, "rb") as file:
            begins = file.read(len(_BEGINS))
    if begins not in (b"", _BEGINS):  # a short file, of any kind, SQLite would take for an empty database
        raise UserError(str(path), expected=expected, found="another kind of file", remedy="choose another file")


@contextlib.contextmanager
def connected(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection for this block, as connections must not be shared between threads; one is made in 0.2 ms."""
    with contextlib.closing(sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)) as connection:
        # Readers and a writer at once. It is a property of the file, which only somebody alone may change.
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            connection.execute("PRAGMA journal_mode = WAL")
        yield connection


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write, for this block."""
    address = f"{path.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(address, uri=True, timeout=_PATIENCE)) as connection:
        yield connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of the block or nothing of it, with the file to itself from the start."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def explain_database_errors(path: Path, expected: str) -> Iterator[None]:
    """Turns SQLite's errors into ones for people.

    Raises:
      UserError: in place of an `sqlite3.Error`.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise UserError(
            str(path), expected=expected, found=shorten(str(error)), remedy="check the path and its permissions"
        ) from error
