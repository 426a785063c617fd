"""Files that are either whole or not there, and the one JSON-lines reader."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alpaca_jax.support.errors import UserError, shorten


def write_text_atomic(path: str | Path, text: str) -> None:
    """Writes `text` so that `path` holds the old or the new content, never a part of it.

    Raises:
      UserError: the folder cannot be written or is full.
    """
    path = Path(path)
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json_atomic(path: str | Path, value: object) -> None:
    """Writes a JSON value, indented, as `write_text_atomic` does."""
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder to fill, which takes the name `path` only when the block ends without an error.

    Until then it lies beside `path` under a hidden name, and an error removes it.

    Raises:
      UserError: `path` exists and is not an empty folder, or cannot be written.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(
            str(path), expected="a folder that does not exist yet", found="one with content", remedy="choose another"
        )
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        temporary.chmod(0o755)
        try:
            yield temporary
            temporary.replace(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


@contextlib.contextmanager
def explain_os_errors(path: str | Path) -> Iterator[None]:
    """Turns what the operating system refuses (no permission, no room, …) into a `UserError` about `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = "free some room or choose another place" if error.errno == 28 else "check the path and its permissions"
        raise UserError(
            str(error.filename or path), expected="to read and write there", found=reason.lower(), remedy=remedy
        ) from error


def read_json(path: str | Path) -> Any:
    """The JSON value in a file.

    Raises:
      UserError: no such file, not readable, or not JSON; the line names the place.
    """
    with explain_os_errors(path), open(path, encoding="utf-8-sig") as file:
        try:
            return json.load(file)
        except (ValueError, RecursionError) as error:
            raise UserError(
                str(path), expected="a JSON file", found=shorten(str(error)), remedy="check that it is the right file"
            ) from error


def read_json_lines(path: str | Path) -> Iterator[tuple[int, Any]]:
    """The values of a JSON-lines file with their line numbers (from 1); blank lines are passed over.

    Raises:
      UserError: no such file, not readable, or a line that is not JSON.
    """
    with explain_os_errors(path), open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    yield number, json.loads(text)
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{path}, line {number}",
                    expected="one JSON value a line",
                    found=shorten(str(error)),
                    remedy="correct or delete that line",
                ) from error
