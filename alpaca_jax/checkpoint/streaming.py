"""A step saved piece by piece, so that no whole parameter, let alone the tree, ever lies in memory.

What it leaves on the disk is an ordinary step: `store.Store` restores it onto any mesh, as one that the trainer saved.
Orbax decides where a step lies and when it counts as complete; only its writing of one array is replaced here.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from orbax.checkpoint import type_handlers

from alpaca_jax.checkpoint.store import PARAMETERS, Store

# Parts that are on their way to the disk at one time; one more is being made meanwhile.
_MAX_BYTES_IN_FLIGHT = 2**25


@dataclasses.dataclass(frozen=True)
class ArrayToCome:
    """A leaf of the tree to save: an array whose content comes later, piece by piece.

    Attributes:
      shape: of the whole.
      dtype: its type.
      piece: the shape of the pieces that it is stored in, which divides `shape`. A device that needs a part of a piece
        reads the whole piece, so pieces should not be larger than what one device gets.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    piece: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Part(NamedTuple):
    """A part of one array.

    Attributes:
      path: the array's place in the tree, joined by dots.
      place: where in the array it belongs, as an index; whole pieces are written without being copied.
      value: the content, in C order, which nobody changes any more.
    """

    path: str
    place: tuple[int | slice, ...]
    value: np.ndarray


def save_streamed(folder: Path, step: int, arrays: Mapping[str, ArrayToCome], parts: Iterable[Part]) -> None:
    """Saves the parameters of a step.

    Args:
      folder: the checkpoint folder.
      step: the step's number.
      arrays: each parameter by its path in the tree, joined by dots.
      parts: their content in any order, made while the parts before are being written; every number exactly once.

    Raises:
      UserError: the disk refuses something; or whatever `parts` raises.
      AssertionError: `parts` is not what `arrays` says.
    """
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        *parents, leaf = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    # Random mantissas do not shrink: the leaves are not compressed, which would cost a core and save nothing.
    leaves = type_handlers.create_type_handler_registry((ArrayToCome, _StreamHandler(parts)))
    with Store(folder, leaves=leaves) as store:
        store.save_items(step, {PARAMETERS: ocp.args.PyTreeSave(tree)})


class _StreamHandler(type_handlers.NumpyHandler):
    """Writes all the arrays of a tree from one stream; they are read back as any others."""

    def __init__(self, parts: Iterable[Part]):
        super().__init__()
        self._parts = parts

    async def serialize(
        self, values: Sequence[ArrayToCome], infos: Sequence[Any], args: Sequence[Any] | None = None
    ) -> Sequence[Any]:
        """See `TypeHandler`; when this returns, everything is on the disk."""
        stores = {}
        for value, info in zip(values, infos, strict=True):
            spec = type_handlers.get_json_tspec_write(
                info,
                use_ocdbt=True,
                global_shape=value.shape,
                local_shape=value.piece,
                dtype=value.dtype,
                process_index=0,
            )
            stores[info.name] = await ts.open(ts.Spec(spec), create=True, open=True, context=info.ts_context)
        _write(stores, self._parts)
        return []


def _write(stores: Mapping[str, Any], parts: Iterable[Part]) -> None:
    """Writes the parts to the open arrays, a bounded number of bytes at one time."""
    missing = {path: math.prod(store.shape) for path, store in stores.items()}
    in_flight: collections.deque[tuple[int, Any]] = collections.deque()
    waiting = 0
    try:
        for path, place, value in parts:
            there = stores[path][place]
            if tuple(there.shape) != value.shape or there.dtype.numpy_dtype != value.dtype:
                raise AssertionError(f"{path}{place}: {value.shape} {value.dtype} for {there.shape} {there.dtype}")
            missing[path] -= value.size
            while in_flight and waiting + value.nbytes > _MAX_BYTES_IN_FLIGHT:
                size, write = in_flight.popleft()
                write.result()
                waiting -= size
            in_flight.append((value.nbytes, there.write(value, can_reference_source_data_indefinitely=True)))
            waiting += value.nbytes
        while in_flight:
            in_flight.popleft()[1].result()
    finally:
        # After a failure the folder is removed, which must not meet a write that still goes on.
        for _, write in in_flight:
            write.commit.exception()
    if wrong := {path: count for path, count in missing.items() if count}:
        raise AssertionError(f"numbers that are missing from the stream, or came twice: {wrong}")
