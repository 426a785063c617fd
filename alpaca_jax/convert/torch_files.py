"""PyTorch's `.pth` and `.bin` files, without running anything in them: the only module that imports torch.

Such a file is a zip archive of a pickle, which names the tensors, and one entry for each block of numbers.
PyTorch unpickles the names with `weights_only` (tensors and plain containers; any other class is refused) and without
the numbers (device `meta`). The numbers are then read from their place in the file by ordinary reads: mapping the file,
as PyTorch would, leaves every page that was touched resident, and fails where the file is larger than the memory.
"""

import dataclasses
import re
import struct
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from alpaca_jax.convert.bits import FLOATS
from alpaca_jax.convert.source import TensorInfo
from alpaca_jax.convert.weight_files import damaged, refuse_type
from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import explain_os_errors

_KIND = "PyTorch weights"
# The names of a model with a thousand layers take a few MiB; more is a trap.
_LARGEST_PICKLE = 2**26


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a tensor's numbers are: `start` in the file, in bytes; `strides` between its elements, in elements."""

    start: int
    strides: tuple[int, ...]


class TorchFile:
    """A `weight_files.WeightFile`.

    Args:
      path: a file that `torch.save` wrote, a dictionary from names to tensors.

    Raises:
      UserError: torch is not installed; the file is missing, damaged, of the form before PyTorch 1.6, or compressed;
        its pickle asks for anything but tensors; or a tensor is of another type than float32, float16 and bfloat16.
    """

    def __init__(self, path: Path):
        self.path = path
        with explain_os_errors(path):
            entries = _entries(path)
        tensors = _load_without_numbers(path)
        self.tensors: dict[str, TensorInfo] = {}
        self._places: dict[str, _Place] = {}
        for name, tensor in tensors.items():
            dtype = FLOATS.get(str(tensor.dtype).removeprefix("torch."))
            if dtype is None:
                raise refuse_type(path, name, tensor.dtype)
            self.tensors[name] = TensorInfo(tuple(tensor.shape), dtype)
            self._places[name] = _place(path, name, tensor, entries)

    def read(self, name: str) -> np.ndarray:
        """See `weight_files.WeightFile`."""
        shape, dtype, place = self.tensors[name].shape, self.tensors[name].dtype, self._places[name]
        numbers = np.empty(_span(shape, place.strides), dtype)
        rest = memoryview(numbers.view(np.uint8))
        with explain_os_errors(self.path), open(self.path, "rb") as file:
            file.seek(place.start)
            while rest:
                count = file.readinto(rest)
                if not count:
                    raise damaged(self.path, f"its end within tensor {name}", _KIND)
                rest = rest[count:]
        strides = [dtype.itemsize * stride for stride in place.strides]
        tensor = np.lib.stride_tricks.as_strided(numbers, shape, strides)
        return tensor if tensor.flags.c_contiguous else tensor.copy()

    def equal(self, first: str, second: str) -> bool:
        """Whether two tensors are laid out alike and hold the same bytes; they are read only as far as they agree."""
        info, one, other = self.tensors[first], self._places[first], self._places[second]
        if self.tensors[second] != info or one.strides != other.strides:
            return False
        count = _span(info.shape, one.strides) * info.dtype.itemsize
        with explain_os_errors(self.path):
            pairs = zip(_blocks(self.path, one.start, count), _blocks(self.path, other.start, count), strict=True)
            return all(block == twin for block, twin in pairs)


def _blocks(path: Path, start: int, count: int) -> Iterator[bytes]:
    """`count` bytes of the file from `start` on, 1 MiB at a time."""
    with open(path, "rb") as file:
        file.seek(start)
        for done in range(0, count, 2**20):
            yield file.read(min(2**20, count - done))


def _entries(path: Path) -> dict[int, int]:
    """The entries of the zip archive: where the content of each begins in the file, and its length."""
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            result: dict[int, int] = {}
            for entry in archive.infolist():
                _check_entry(path, archive, entry)
                file.seek(entry.header_offset + 26)  # the lengths of name and extra field in the local header
                lengths = struct.unpack("<HH", file.read(4))
                result[entry.header_offset + 30 + sum(lengths)] = entry.file_size
            return result
    except zipfile.BadZipFile as error:
        with open(path, "rb") as file:
            start = file.read(8)
        if start[:1] != b"\x80":  # with which a pickle begins
            raise damaged(path, f"a zip archive cut off, or another file (it begins with {start!r})", _KIND) from error
        raise UserError(
            str(path),
            expected="a zip archive, as PyTorch 1.6 and newer write",
            found="a bare pickle, the form before",
            remedy="save it again with a newer PyTorch, or get the model's safetensors",
        ) from error
    except (NotImplementedError, RuntimeError, ValueError, struct.error) as error:
        raise damaged(path, f"a zip archive that cannot be read ({error})", _KIND) from error


def _check_entry(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Refuses what PyTorch would unpack without bound, or fail on without an exception."""
    if entry.compress_type != zipfile.ZIP_STORED:
        raise damaged(path, f"a compressed archive ({entry.filename}), which torch.save never writes", _KIND)
    base = entry.filename.rsplit("/", 1)[-1].lower()  # PyTorch looks entries up without regard to case
    if base == "data.pkl" and entry.file_size > _LARGEST_PICKLE:
        raise damaged(path, f"a pickle of {entry.file_size / 2**20:,.0f} MiB", _KIND)
    if base == "byteorder" and archive.read(entry).decode("latin-1") != sys.byteorder:
        raise damaged(path, "the byte order of another machine", _KIND)


def _load_without_numbers(path: Path) -> dict[str, Any]:
    """The file's dictionary, its tensors on PyTorch's device without memory."""
    try:
        import torch
    except ImportError as error:
        raise UserError(
            str(path),
            expected="PyTorch installed, to read its files",
            found="no package torch",
            remedy='run `pip install "alpaca-jax[torch]"`, or get the model\'s safetensors',
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            value = torch.load(path, map_location="meta", weights_only=True)
        except Exception as error:  # on a damaged file it fails in whatever way its parsing happens to
            raise _explain(path, str(error)) from error
    if not isinstance(value, dict):
        raise damaged(path, f"a {type(value).__name__} in place of a dictionary of tensors", _KIND)
    for name, tensor in value.items():
        plain = isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided and not tensor.is_neg()
        if not isinstance(name, str) or not plain:
            raise damaged(path, f"something other than a plain tensor under {shorten(name)}", _KIND)
    return value


def _explain(path: Path, message: str) -> UserError:
    """The error for a pickle that PyTorch refuses; its own message is several paragraphs, the reason one of them."""
    unsafe = re.search(r"GLOBAL (\S+)|call reduce for unrecognized function (\S+)", message)
    if unsafe is None:
        paragraphs = [text.strip() for text in message.split("\n\n")]
        reasons = [text for text in paragraphs if text and not text.startswith(("Weights only load", "Check the doc"))]
        return damaged(path, reasons[0] if reasons else message, _KIND)
    return UserError(
        str(path),
        expected="a pickle of tensors alone",
        found=f"one that asks for {shorten(unsafe[1] or unsafe[2])}, which could run code",
        remedy="do not use this file; get the model's safetensors",
    )


def _place(path: Path, name: str, tensor: Any, entries: dict[int, int]) -> _Place:
    """Where the numbers of a tensor are, checked to lie within one entry."""
    if tensor.numel() == 0:
        return _Place(0, tuple(tensor.stride()))
    # PyTorch notes here at which byte of the file a block of numbers lies.
    start = getattr(tensor.untyped_storage(), "_checkpoint_offset", -1)
    first, itemsize = tensor.storage_offset(), tensor.element_size()
    if (first + _span(tensor.shape, tensor.stride())) * itemsize > entries.get(start, 0):
        raise damaged(path, f"tensor {name} is not within one entry of the archive", _KIND)
    return _Place(start + first * itemsize, tuple(tensor.stride()))


def _span(shape: Any, strides: Any) -> int:
    """How many elements lie from a tensor's first to its last, both counted."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
