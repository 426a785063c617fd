"""One safetensors file as a `weight_files.WeightFile`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alpaca_jax.convert.bits import FLOATS, as_bytes
from alpaca_jax.convert.source import TensorInfo
from alpaca_jax.convert.weight_files import damaged, refuse_type
from alpaca_jax.support.errors import UserError

# The format's names of types. The unsigned ones are of no model: they hold bits, for a weight diff.
NAMES: dict[str, np.dtype] = {"F32": FLOATS["float32"], "F16": FLOATS["float16"], "BF16": FLOATS["bfloat16"]}
BITS: dict[str, np.dtype] = {"U32": np.dtype(np.uint32), "U16": np.dtype(np.uint16)}
_LARGEST_HEADER = 100_000_000  # bytes, the library's limit


class SafetensorsFile:
    """A `weight_files.WeightFile`.

    The library holds the header against the file: the tensors must fill it without gap or overlap, each as many bytes
    as its shape and type say.

    Args:
      path: the file.
      types: the types that its tensors may be of.

    Raises:
      UserError: no such file, damaged, or a tensor of another type.
    """

    def __init__(self, path: Path, types: Mapping[str, np.dtype] = NAMES):
        from safetensors import SafetensorError, safe_open

        self.path = path
        try:
            handle = safe_open(path, framework="numpy", backend="pread")
            names = handle.keys()
            headers = [(name, handle.get_slice(name)) for name in names]
        except FileNotFoundError as error:
            raise UserError(
                str(path), expected="a file that the index names", found="no such file", remedy="download it again"
            ) from error
        except (SafetensorError, OSError, ValueError) as error:
            raise damaged(path, _cut_off(path) or str(error), "safetensors") from error
        described, start = _read_places(path)
        self.tensors: dict[str, TensorInfo] = {}
        self._places: dict[str, int] = {}
        for name, header in headers:
            dtype = header.get_dtype()
            if dtype not in types:
                raise refuse_type(path, name, dtype)
            self.tensors[name] = TensorInfo(tuple(header.get_shape()), types[dtype])
            self._places[name] = start + described[name]["data_offsets"][0]

    def read(self, name: str) -> np.ndarray:
        """See `weight_files.WeightFile`.

        Read here and not by the library: mapping the file leaves every page resident, and its other way takes three
        times as long, most of it for memory that numpy gets in larger pages.
        """
        info = self.tensors[name]
        tensor = np.empty(info.shape, info.dtype)
        unread = memoryview(as_bytes(tensor))
        try:
            with open(self.path, "rb", buffering=0) as raw:
                raw.seek(self._places[name])
                while unread:
                    if not (size := raw.readinto(unread)):
                        raise damaged(self.path, f"an end inside tensor {name}", "safetensors")
                    unread = unread[size:]
        except OSError as error:
            raise damaged(self.path, f"tensor {name}: {error}", "safetensors") from error
        return tensor


def _read_places(path: Path) -> tuple[dict[str, Any], int]:
    """The header, which says where each tensor begins, and the place in the file that it counts from.

    A tensor that is described twice, of which the library would take the last, is refused.
    """
    header = _read_header(path)
    return json.loads(header, object_pairs_hook=lambda pairs: _unique(path, pairs)), 8 + len(header)


def _unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        doubled = next(name for index, (name, _) in enumerate(pairs) if name in dict(pairs[:index]))
        raise damaged(path, f"{doubled} described twice", "safetensors")
    return names


def _cut_off(path: Path) -> str | None:
    """Names the tensor in which a file ends too early, which the library does not; None where it ends otherwise."""
    try:
        header = _read_header(path)
        available = path.stat().st_size - 8 - len(header)
        ends = {name: entry["data_offsets"][1] for name, entry in json.loads(header).items() if name != "__metadata__"}
        missing = [name for name in ends if ends[name] > available]
        return f"an end inside tensor {min(missing, key=ends.__getitem__)}" if missing else None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None  # what is wrong lies elsewhere, and the library has said what


def _read_header(path: Path) -> bytes:
    """The header's JSON; no more than the library allows is read, whatever its length says."""
    with open(path, "rb") as file:
        return file.read(min(int.from_bytes(file.read(8), "little"), _LARGEST_HEADER))
