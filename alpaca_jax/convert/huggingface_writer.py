"""The weights of a Hugging Face folder, written tensor by tensor: safetensors in shards, and their index.

The safetensors library writes only whole files, from memory. Its form (https://github.com/huggingface/safetensors) is
8 bytes of header length, the header in JSON, then the tensors' bytes; as every size is known beforehand, the header is
written first and each tensor goes straight to its place, so that no more than one tensor is held.
"""

import concurrent.futures
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alpaca_jax.convert.bits import as_bytes, sha256_tensor
from alpaca_jax.convert.safetensors_file import BITS, NAMES
from alpaca_jax.convert.source import TensorInfo
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import explain_os_errors, write_json_atomic

_TYPES = {dtype: name for name, dtype in (NAMES | BITS).items()}
_ALIGNMENT = 8
_BLOCK = 2**24  # bytes a write


class FolderWriter:
    """Writes tensors into `{stem}.safetensors`, or `{stem}-00001-of-0000N.safetensors` with an index.

    Args:
      folder: where; it must exist.
      tensors: what will be written, in the order in which it will be.
      max_shard_bytes: a file's largest size, header aside; a tensor larger than that has a file of its own.
      stem: the files' names; with `model`, transformers takes the folder for a model.

    Raises:
      UserError: the disk has no room for them.
    """

    def __init__(
        self, folder: Path, tensors: Mapping[str, TensorInfo], max_shard_bytes: int = 2**30, stem: str = "model"
    ):
        self._folder, self._stem, self._tensors = folder, stem, dict(tensors)
        check_room(folder, sum(map(num_bytes, tensors.values())))
        shards = _shards(self._tensors, max_shard_bytes)
        self._places: dict[str, tuple[Path, int]] = {}
        self._unfinished: dict[Path, int] = {}
        for number, names in enumerate(shards, start=1):
            part = "" if len(shards) == 1 else f"-{number:05}-of-{len(shards):05}"
            file = folder / f"{stem}{part}.safetensors"
            self._unfinished[file] = len(names)
            self._places |= {name: (file, offset) for name, offset in self._write_header(file, names).items()}
        self._records: dict[str, dict[str, Any]] = {}
        self._helper = concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="writer")
        self._flushes: list[concurrent.futures.Future[None]] = []

    def write(self, name: str, array: np.ndarray) -> str:
        """Writes the next tensor.

        Returns:
          The SHA-256 of its bytes.

        Raises:
          UserError: the disk refuses it.
        """
        info = self._tensors[name]
        if (array.shape, array.dtype) != (info.shape, info.dtype) or name in self._records:
            raise ValueError(f"{name}: {array.shape} {array.dtype} for {info}, written: {name in self._records}")
        hashing = self._helper.submit(sha256_tensor, array)  # beside the writing: both release Python's lock
        content = memoryview(as_bytes(array))
        file, offset = self._places[name]
        with explain_os_errors(file), open(file, "r+b", buffering=0) as raw:
            raw.seek(offset)
            while content:
                content = content[raw.write(content[:_BLOCK]) :]
        sha256 = hashing.result()
        self._records[name] = {"dtype": str(info.dtype), "shape": list(info.shape), "sha256": sha256}
        self._unfinished[file] -= 1
        if not self._unfinished[file]:
            self._flushes.append(self._helper.submit(_flush, file))
        return sha256

    def close(self) -> dict[str, dict[str, Any]]:
        """Writes the index, when all tensors are on the disk.

        Returns:
          For each tensor, in the order written, its dtype, shape and sha256, as JSON.

        Raises:
          UserError: the disk refuses something.
        """
        if missing := self._tensors.keys() - self._records.keys():
            raise ValueError(f"not written: {sorted(missing)}")
        self._helper.shutdown()
        with explain_os_errors(self._folder):
            for flush in self._flushes:
                flush.result()
        if len(self._unfinished) > 1:
            index = {
                "metadata": {"total_size": sum(map(num_bytes, self._tensors.values()))},
                "weight_map": {name: self._places[name][0].name for name in sorted(self._places)},
            }
            write_json_atomic(self._folder / f"{self._stem}.safetensors.index.json", index)
        return self._records

    def _write_header(self, file: Path, names: list[str]) -> dict[str, int]:
        """Makes a file with its header and without its tensors; gives each tensor's offset in the file."""
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers reads no file without it
        offsets, end = {}, 0
        # Wide types first, so that each tensor lies at a multiple of its type's size, for readers that map the file.
        for name in sorted(names, key=lambda name: -self._tensors[name].dtype.itemsize):
            info = self._tensors[name]
            offsets[name], end = end, end + num_bytes(info)
            place = {"dtype": _TYPES[info.dtype], "shape": list(info.shape), "data_offsets": [offsets[name], end]}
            header[name] = place
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        with explain_os_errors(file), open(file, "wb") as raw:
            raw.write(len(text).to_bytes(8, "little") + text)
            raw.truncate(8 + len(text) + end)
        return {name: 8 + len(text) + offset for name, offset in offsets.items()}


def num_bytes(info: TensorInfo) -> int:
    """The bytes that a tensor takes."""
    return math.prod(info.shape) * info.dtype.itemsize


def check_room(folder: Path, needed: int) -> None:
    """Refuses a disk without room for so many bytes, before anything is read or written.

    Raises:
      UserError: it has not.
    """
    with explain_os_errors(folder):
        free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            str(folder.parent),
            expected=f"room for {needed / 2**20:,.0f} MiB on its disk",
            found=f"{free / 2**20:,.0f} MiB",
            remedy="free some room or choose another place",
        )


def _shards(tensors: Mapping[str, TensorInfo], max_shard_bytes: int) -> list[list[str]]:
    """The names, file by file."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, info in tensors.items():
        if shards[-1] and size + num_bytes(info) > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += num_bytes(info)
    return shards


def _flush(file: Path) -> None:
    """Waits until the disk holds the file."""
    with open(file, "rb") as raw:
        os.fsync(raw.fileno())
