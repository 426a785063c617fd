"""The arithmetic of Alpaca's published weight diff: float32 differences, mean rows, and one sum as a check."""

import dataclasses
import math

import numpy as np

from alpaca_jax.convert.source import TensorInfo
from alpaca_jax.model.config import ModelConfig

_TOLERANCE = 1e-2


def widen(base: np.ndarray, rows: int) -> np.ndarray:
    """The base in float32, with rows added until there are `rows`, each the mean of the base's own.

    That is how Alpaca gave LLaMA its `[PAD]`, in the input and in the output embedding. The mean is rounded once, from
    float64.
    """
    result = np.empty((rows, *base.shape[1:]), np.float32)
    result[: len(base)] = base
    if rows > len(base):
        result[len(base) :] = result[: len(base)].mean(axis=0, dtype=np.float64)
    return result


class Additive:
    """A `weight_diff.Mode`: float32 tuned − base, recovered as base + diff.

    Float32 does not always give the tuned number back, so what is recovered is measured against it.
    """

    stem = "model"

    def __init__(self, model: ModelConfig):
        self.sum = SumOfElements(model)
        self._inexact, self._largest = 0, 0.0

    def figures(self) -> dict[str, float]:
        """See `weight_diff.Mode`."""
        sums = {"sum": self.sum.without_buffers, "sum_with_rotary_buffers": self.sum.with_buffers}
        return sums | {"inexact_elements": self._inexact, "largest_error": self._largest}

    def infos(self, tuned: TensorInfo) -> tuple[TensorInfo, TensorInfo]:
        """See `weight_diff.Mode`."""
        return (TensorInfo(tuned.shape, np.dtype(np.float32)),) * 2

    def make(self, base: np.ndarray, tuned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `weight_diff.Mode`."""
        tuned = tuned.astype(np.float32, copy=False)
        result = widen(base, len(tuned))
        diff = tuned - result
        self._add_to(result, diff)
        for recovered, wanted in zip(result, tuned, strict=True):  # by row, for the memory's sake
            error = np.abs(recovered - wanted)
            self._inexact += int(np.count_nonzero(error))
            self._largest = max(self._largest, float(error.max(initial=0.0)))
        return diff, result

    def recover(self, base: np.ndarray, diff: np.ndarray, info: TensorInfo) -> np.ndarray:
        """See `weight_diff.Mode`."""
        result = widen(base, len(diff))
        self._add_to(result, diff)
        return result

    def _add_to(self, base: np.ndarray, diff: np.ndarray) -> None:
        base += diff
        self.sum.add(base)


@dataclasses.dataclass
class SumOfElements:
    """The sum of all elements of a model, the check that was published with Alpaca's diff.

    The original adds up each tensor in float32, then the tensors' sums one after another, in float32 too, in which a
    number near 50,000 has a last place of 1/256: what comes out hangs on the order of the additions, thus on the number
    of threads. Here the sum is exact but for float64's rounding, and the tolerance has room for theirs: 1/100, as
    published, and two standard deviations of as many roundings as there are tensors, each uniform within half a last
    place. For LLaMA 7B that is 0.01 + 0.04; for a small model the second term is nothing.

    Old versions of transformers keep each layer's rotary frequencies among the tensors (`inv_freq`, θ^(−2i/head_dim)),
    and the published sum has them in it; so the check knows both variants.
    """

    model: ModelConfig
    without_buffers: float = 0.0
    _tensors: int = 0

    def add(self, tensor: np.ndarray) -> None:
        """Counts one more tensor in."""
        self.without_buffers += float(tensor.sum(dtype=np.float64))
        self._tensors += 1

    @property
    def with_buffers(self) -> float:
        """The sum with the rotary frequencies of every layer."""
        exponents = np.arange(0, self.model.head_dim, 2) / self.model.head_dim
        return self.without_buffers + self.model.num_layers * float((self.model.rope_theta**-exponents).sum())

    def match(self, expected: float) -> str | None:
        """Which variant is the expected sum, in words; None where neither is."""
        last_place = 2.0 ** (math.frexp(self.without_buffers)[1] - 24)  # of a float32 of that size
        tolerance = _TOLERANCE + 2 * last_place * math.sqrt((self._tensors + self.model.num_layers) / 12)
        for variant, value in (("without", self.without_buffers), ("with", self.with_buffers)):
            if abs(value - expected) <= tolerance:
                return f"sum of all elements {value:.4f} {variant} rotary buffers, within {tolerance:.4f} of {expected}"
        return None
