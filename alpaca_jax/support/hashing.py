"""SHA-256 of bytes, files, texts and JSON values: the only hash in the project."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

_BLOCK = 2**20


def sha256_bytes(content: bytes | memoryview) -> str:
    """Hexadecimal SHA-256 of some bytes; Python's lock is free meanwhile."""
    return hashlib.sha256(content).hexdigest()


def sha256_text(text: str) -> str:
    """Hexadecimal SHA-256 of `text` in UTF-8."""
    return sha256_bytes(text.encode("utf-8", "surrogatepass"))


def sha256_json(value: object) -> str:
    """SHA-256 of a JSON value, independent of the order of its keys."""
    return sha256_text(json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")))


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, read in blocks.

    Raises:
      OSError: the file cannot be read.
    """
    return sha256_file_unless(path, lambda: False)


def sha256_file_unless(path: str | Path, abandoned: Callable[[], bool]) -> str:
    """As `sha256_file`, of the part that was read until the answer was wanted no more.

    Raises:
      OSError: the file cannot be read.
    """
    sha256, block = hashlib.sha256(), bytearray(_BLOCK)
    with open(path, "rb", buffering=0) as file:
        while (size := file.readinto(block)) and not abandoned():
            sha256.update(memoryview(block)[:size])
    return sha256.hexdigest()
