"""What a source of weights offers, whatever its format."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from alpaca_jax.model.config import ModelConfig
from alpaca_jax.support.errors import UserError

if TYPE_CHECKING:
    from alpaca_jax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """A tensor that has not been read yet: its shape, and the type that `Source.read` gives it in."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Source(Protocol):
    """A model on disk in somebody else's format, described in Hugging Face's words.

    Opening one reads its description and checks it; the weights are read later, one tensor at a time.

    Attributes:
      kind: the format, as provenance names it.
      path: what the user gave.
      model: the sizes.
      files: every file that the weights and their description are read from.
      tensors: each tensor of the source by Hugging Face's name; one that has no such name stands under its own.
    """

    kind: str
    path: Path
    model: ModelConfig
    files: tuple[Path, ...]
    tensors: dict[str, TensorInfo]

    def read(self, name: str) -> np.ndarray:
        """One tensor, laid out as Hugging Face's ([out, in], rotary pairs half-split).

        Raises:
          UserError: it cannot be read.
        """

    def own_name(self, name: str) -> str:
        """What the source itself calls the tensor with this Hugging Face name, for messages."""

    def tokenizer(self, scratch: Path) -> "Tokenizer":
        """The model's tokenizer.

        Args:
          scratch: an empty folder in which files may be made for it; it must outlive the tokenizer.

        Raises:
          UserError: there is none, or it is not supported.
        """


def make_config(subject: str, **sizes: Any) -> ModelConfig:
    """The model description with those sizes.

    Raises:
      UserError: they do not fit together; `subject` names where they come from.
    """
    try:
        return ModelConfig(**sizes)
    except UserError as error:
        raise UserError(
            f"{subject}: {error.subject}", expected=error.expected, found=error.found, remedy=error.remedy
        ) from None
