"""What a file of tensors offers, whatever wrote it."""

from pathlib import Path
from typing import Protocol

import numpy as np

from alpaca_jax.convert.source import TensorInfo
from alpaca_jax.support.errors import UserError, shorten


class WeightFile(Protocol):
    """One file of named tensors; opening it reads and checks its description, and no weights.

    Attributes:
      path: the file.
      tensors: every tensor of the file, by the name that it has there.
    """

    path: Path
    tensors: dict[str, TensorInfo]

    def read(self, name: str) -> np.ndarray:
        """One tensor, in memory of its own: nothing of the file stays resident behind it.

        Raises:
          UserError: it cannot be read.
        """


def damaged(file: Path, found: str, kind: str) -> UserError:
    """The error for a file that is not what its name or its description says; `kind` is what it should be."""
    return UserError(str(file), expected=f"whole {kind}", found=shorten(found, 160), remedy="download the model again")


def refuse_type(file: Path, tensor: str, dtype: object) -> UserError:
    """The error for a tensor that is not of one of the three floating types that models are published in."""
    return UserError(
        f"{file}, tensor {tensor}",
        expected="float32, float16 or bfloat16",
        found=str(dtype),
        remedy="choose the model's own weights, not a quantised copy",
    )
