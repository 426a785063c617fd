"""What making a weight diff and recovering from it share: which tensors belong together, and how a diff is made.

The additive way has a module of its own, `additive.py`.
"""

import contextlib
from collections.abc import Callable, Generator, Mapping
from typing import Protocol

import numpy as np

from alpaca_jax.convert.bits import unsigned_type
from alpaca_jax.convert.names import EMBEDDING, HEAD
from alpaca_jax.convert.pipeline import ahead
from alpaca_jax.convert.source import Source, TensorInfo
from alpaca_jax.support.errors import UserError

# The tensors whose first axis is the vocabulary, which fine-tuning may have enlarged.
_ENLARGED = (EMBEDDING.theirs, HEAD.theirs)


def match_base(base: Source, tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Which tensor of the base belongs to each tensor of the tuned model.

    The same name, or, for the head that a tied base does not have, its embedding. The base may have fewer rows where
    the first axis is the vocabulary.

    Raises:
      UserError: the base is of another architecture; the tensor is named.
    """
    pairs = {}
    for name, info in tensors.items():
        theirs = name
        if name not in base.tensors and name == HEAD.theirs and base.model.tied_embeddings:
            theirs = EMBEDDING.theirs
        if theirs not in base.tensors:
            raise wrong_base(base, name, "it among the tensors", "none")
        shape = base.tensors[theirs].shape
        fewer_rows = name in _ENLARGED and shape[1:] == info.shape[1:] and shape[0] < info.shape[0]
        if shape != info.shape and not fewer_rows:
            raise wrong_base(base, theirs, f"shape {info.shape}", f"{shape}")
        pairs[name] = theirs
    for name in base.tensors:
        if name not in pairs.values() and name != HEAD.theirs:
            raise wrong_base(base, name, "only the tensors that the tuned model has", "one more")
    return pairs


def read_pairs(
    base: Source, other: Callable[[str], np.ndarray], pairs: Mapping[str, str]
) -> Generator[tuple[str, np.ndarray, np.ndarray], None, None]:
    """Each pair's name, the base's tensor and the other one's, read while the pair before is in use.

    No more than two pairs are held, if the caller lets go of one before it asks for the next.

    Raises:
      UserError: one cannot be read.
    """
    readers = ((read, name) for pair in pairs.items() for name, read in zip(pair, (other, base.read), strict=True))
    with contextlib.closing(ahead(read(name) for read, name in readers)) as tensors:
        for name in pairs:
            wanted = next(tensors)
            yield name, next(tensors), wanted
            del wanted


def wrong_base(base: Source, name: str, expected: str, found: str) -> UserError:
    """The error for a base that is not the one that the tuned model was made from."""
    return UserError(
        f"{base.path}, tensor {base.own_name(name)}",
        expected=expected,
        found=found,
        remedy="give the very base model that the tuned one was trained from",
    )


class Mode(Protocol):
    """How a diff is made and undone, one tensor at a time.

    Attributes:
      stem: the beginning of the names of the diff's files.
    """

    stem: str

    def infos(self, tuned: TensorInfo) -> tuple[TensorInfo, TensorInfo]:
        """Shape and type of the diff's and of the recovered tensor, given the tuned one's."""

    def make(self, base: np.ndarray, tuned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The diff's tensor, and what `recover` will make of it; both arguments are left as they are."""

    def recover(self, base: np.ndarray, diff: np.ndarray, info: TensorInfo) -> np.ndarray:
        """The recovered tensor, of that shape and type; both arguments are left as they are."""

    def figures(self) -> dict[str, float]:
        """What was found over all tensors, for the manifest."""


class Xor:
    """The bits of the tuned tensor XOR those of the base's, cast to the tuned one's type; recovers every bit.

    The cast rounds to the nearest, ties to even. Rows that the base does not have count as zero.
    """

    stem = "diff"

    def infos(self, tuned: TensorInfo) -> tuple[TensorInfo, TensorInfo]:
        """See `Mode`."""
        return TensorInfo(tuned.shape, unsigned_type(tuned.dtype)), tuned

    def make(self, base: np.ndarray, tuned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Mode`."""
        return self.recover(base, tuned, TensorInfo(tuned.shape, tuned.dtype)).view(unsigned_type(tuned.dtype)), tuned

    def recover(self, base: np.ndarray, diff: np.ndarray, info: TensorInfo) -> np.ndarray:
        """See `Mode`; XOR undoes itself."""
        if (base.shape, base.dtype) == (info.shape, info.dtype):
            wide = unsigned_type(info.dtype)
            return (base.view(wide) ^ diff.view(wide)).view(info.dtype)
        result = np.zeros(info.shape, info.dtype)
        with np.errstate(over="ignore"):  # infinity is as good a pattern of bits as any, and the same each time
            result[: len(base)] = base
        bits = result.view(unsigned_type(info.dtype))
        np.bitwise_xor(bits, diff.view(bits.dtype), out=bits)
        return result

    def figures(self) -> dict[str, float]:
        """See `Mode`; every bit is recovered, so there are none."""
        return {}
