"""What a source of weights offers, whatever its format, and which format a path holds."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from alpaca_jax.model.config import ModelConfig
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import explain_os_errors

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


def open_source(path: str | Path) -> Source:
    """Opens what lies at `path` after a look at what it is.

    Raises:
      UserError: nothing is there, or nothing that can be imported.
    """
    path = Path(path)
    with explain_os_errors(path):
        if not path.exists():
            raise _not_a_source(path, "nothing there", "check the path")
        if path.is_dir():
            return _open_folder(path)
        with open(path, "rb") as file:
            magic = file.read(4)
    if magic == b"GGUF":
        from alpaca_jax.convert.gguf_file import GGUFFile

        return GGUFFile(path)
    if path.suffix in (".safetensors", ".bin", ".pth", ".json"):
        raise _not_a_source(path, f"one {path.suffix} file", "give the folder that holds it, with its config.json")
    raise _not_a_source(path, "a file of another kind", "check the path; a GGUF file must be whole")


def _open_folder(folder: Path) -> Source:
    if (folder / "config.json").is_file():
        from alpaca_jax.convert.huggingface import HuggingFaceFolder

        return HuggingFaceFolder(folder)
    if (folder / "model.json").is_file():
        raise _not_a_source(folder, "a checkpoint of this project", "use it as it is: give it as --checkpoint")
    if (folder / "params.json").is_file() or any(folder.glob("consolidated.*.pth")):
        raise _not_a_source(
            folder, "Meta's own format (.pth)", "convert it to Hugging Face safetensors first; .pth is not read yet"
        )
    if ggufs := sorted(folder.glob("*.gguf")):
        raise _not_a_source(folder, "a folder without config.json", f"give the file itself, {ggufs[0]}")
    raise _not_a_source(folder, "a folder without config.json", "check the path")


def _not_a_source(path: Path, found: str, remedy: str) -> UserError:
    expected = "a Hugging Face folder (config.json and safetensors) or a .gguf file"
    return UserError(str(path), expected=expected, found=found, remedy=remedy)


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
