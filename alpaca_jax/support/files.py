"""Files that are either whole or not there, plain or compressed, and the one JSON-lines reader."""

import contextlib
import errno
import io
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from alpaca_jax.support.errors import UserError, shorten

# One line, or one record of a list, may be this long, in bytes: no text for a model comes near it, and a file that is
# something else (or a small compressed one that expands without end) is refused before it fills the memory.
LONGEST_LINE = 2**26

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


def write_bytes_atomic(path: str | Path, content: bytes) -> None:
    """Writes `content` so that `path` holds the old or the new content, never a part of it.

    Raises:
      UserError: the folder cannot be written or is full, or `path` is a folder.
    """
    path = Path(path)
    with explain_os_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text_atomic(path: str | Path, text: str) -> None:
    """Writes a text in UTF-8, as `write_bytes_atomic` does."""
    write_bytes_atomic(path, text.encode())


def write_json_atomic(path: str | Path, value: object) -> None:
    """Writes a JSON value, indented, as `write_bytes_atomic` does."""
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_json_lines_atomic(path: str | Path, values: Iterable[object]) -> None:
    """Writes JSON values, one a line, as `write_bytes_atomic` does."""
    write_text_atomic(path, "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))


def check_file_place(path: str | Path) -> None:
    """Refuses a place where a file could not be written now, rather than after the work for it.

    Raises:
      UserError: a folder, or in one that cannot be written or made.
    """
    with explain_os_errors(path):
        if Path(path).is_dir():
            raise UserError(str(path), expected="a file to write", found="a folder", remedy="name a file in it")
        _check_place(Path(path), Path(path).absolute().parents)


def check_folder_place(path: str | Path) -> None:
    """The same of a folder that is to be filled, or made.

    Raises:
      UserError: a file, or in a folder that cannot be written.
    """
    with explain_os_errors(path):
        _check_place(Path(path), (Path(path).absolute(), *Path(path).absolute().parents))


def _check_place(path: Path, folders: Sequence[Path]) -> None:
    nearest = next(folder for folder in folders if folder.exists())
    if not nearest.is_dir():
        raise UserError(str(nearest), expected="a folder", found="a file", remedy="choose another place")
    try:
        tempfile.TemporaryFile(dir=nearest).close()  # what permissions say is not all there is to it
    except OSError as error:
        found = (error.strerror or str(error)).lower()
        remedy = "choose another place, or change its permissions"
        raise UserError(str(path), expected="to write there", found=found, remedy=remedy) from error


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder to fill, which takes the name `path` only when the block ends without an error.

    Until then it lies beside `path` under a hidden name, and an error removes it.

    Raises:
      UserError: `path` exists and is not an empty folder, or cannot be written.
    """
    path = Path(os.path.realpath(path))  # "." and a link cannot be replaced, what they stand for can
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        found = "one with content" if path.is_dir() else "a file"
        raise UserError(str(path), expected="a folder that does not exist yet", found=found, remedy="choose another")
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
    """Turns what the operating system refuses (no permission, no room, …) into a `UserError` about `path`.

    It names the file of the error instead where that is another than `path`, but none of our hidden ones beside it.
    """
    try:
        yield
    except OSError as error:
        subject = str(path if error.filename is None else error.filename)
        if os.path.basename(subject).startswith(f".{Path(path).name}."):
            subject = str(path)
        expected, remedy = _OS_REFUSALS.get(error.errno or 0, ("to read and write there", _CHECK_PATH))
        found = (error.strerror or str(error)).lower()
        raise UserError(subject, expected=expected, found=found, remedy=remedy) from error


_CHECK_PATH = "check the path and its permissions"
_OS_REFUSALS = {
    errno.ENOSPC: ("room there", "free some room or choose another place"),
    errno.ENOENT: ("a file or folder of that name", "check the path"),
    errno.EISDIR: ("a file", "name a file in it"),
    errno.ENOTDIR: ("a folder on the way", "check the path"),
    errno.EEXIST: ("a folder", "choose another place"),
}


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


@contextlib.contextmanager
def open_decompressed(path: str | Path) -> Iterator[io.BufferedReader]:
    """The bytes of a file, decompressed where its first bytes are those of gzip or Zstandard, whatever its name.

    Raises:
      UserError: no such file, not readable, or damaged where it is compressed; while it is opened, or later on.
    """
    with explain_os_errors(path), open(path, "rb") as file:
        start = file.peek(4)
        if start.startswith(_GZIP):
            import gzip
            import zlib

            with _explain_damage(path, "gzip", (EOFError, gzip.BadGzipFile, zlib.error)), gzip.open(file) as inner:
                yield io.BufferedReader(cast(io.RawIOBase, inner), 2**18)
        elif start.startswith(_ZSTD):
            if sys.version_info >= (3, 14):
                from compression import zstd
            else:
                from backports import zstd

            with _explain_damage(path, "Zstandard", (EOFError, zstd.ZstdError)), zstd.open(file) as inner:
                yield io.BufferedReader(cast(io.RawIOBase, inner), 2**18)
        else:
            yield file


@contextlib.contextmanager
def _explain_damage(path: str | Path, kind: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    try:
        yield
    except errors as error:
        raise UserError(
            str(path),
            expected=f"an undamaged {kind} file",
            found=shorten(str(error)),
            remedy="make it or fetch it again",
        ) from error


def read_json_lines(path: str | Path) -> Iterator[tuple[int, Any]]:
    """The values of a JSON-lines file, which may be compressed, with their line numbers (from 1).

    Blank lines are passed over.

    Raises:
      UserError: no such file, not readable, or a line that is not JSON or is longer than `LONGEST_LINE`.
    """
    with open_decompressed(path) as file:
        yield from json_lines(file, path)


def json_lines(file: BinaryIO, path: str | Path, first_line: int = 1) -> Iterator[tuple[int, Any]]:
    """As `read_json_lines`, from an open file that stands at the beginning of line `first_line`."""
    number = first_line
    while line := file.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            refuse_line(path, number, f"at most {LONGEST_LINE // 2**20} MiB in a line", "a longer one")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            if text and not text.isspace():
                yield number, parse_json(text)
        except (ValueError, RecursionError) as error:
            refuse_line(path, number, "one JSON value a line", json_fault(error), error)
        number += 1


def refuse_line(
    path: str | Path, number: int, expected: str, found: str, cause: BaseException | None = None
) -> NoReturn:
    """Raises the error for a line that is not what was expected."""
    remedy = "correct or delete that line"
    raise UserError(f"{path}, line {number}", expected=expected, found=found, remedy=remedy) from cause


def json_fault(error: BaseException | str) -> str:
    """What was found instead of JSON, in a few words."""
    return "lists or objects within each other too deep" if isinstance(error, RecursionError) else shorten(str(error))


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {shorten(twice, 40)} twice in one object")
    return value


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{shorten(digits, 40)}, a number too large")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which JSON does not have")


# Python's own decoder takes NaN, and of equal keys the last: which of two answers was meant cannot be known.
STRICT_DECODER = json.JSONDecoder(
    object_pairs_hook=_distinct_keys, parse_constant=_refuse_constant, parse_float=_finite
)


def parse_json(text: str) -> Any:
    """The JSON value in `text`.

    Raises:
      ValueError: it is not JSON, has the same key twice in one object, or a number that is not finite.
      RecursionError: it is nested too deep.
    """
    return STRICT_DECODER.decode(text)
