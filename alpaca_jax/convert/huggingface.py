"""A Hugging Face folder as a source: `config.json`, and weights in one file or in shards with an index."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alpaca_jax.convert.huggingface_config import read_model_config
from alpaca_jax.convert.safetensors_file import SafetensorsFile
from alpaca_jax.convert.source import TensorInfo
from alpaca_jax.convert.torch_files import TorchFile
from alpaca_jax.convert.weight_files import WeightFile, damaged
from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import read_json

if TYPE_CHECKING:
    from alpaca_jax.data.tokenizer import Tokenizer

_CONFIG = "config.json"
# Old files hold each layer's rotary frequencies, which follow from the configuration.
_IGNORED_SUFFIX = ".rotary_emb.inv_freq"


class HuggingFaceFolder:
    """A `source.Source`; nothing in it is ever run.

    Args:
      folder: the folder.

    Raises:
      UserError: a model that this project does not compute, or damaged files.
    """

    kind = "huggingface"

    def __init__(self, folder: Path):
        self.path = folder
        self.model = read_model_config(read_json(folder / _CONFIG), str(folder / _CONFIG))
        self.weights = FolderOfWeights(folder)
        self.files = (folder / _CONFIG, *self.weights.files)
        self.tensors = {name: info for name, info in self.weights.tensors.items() if not name.endswith(_IGNORED_SUFFIX)}

    def read(self, name: str) -> np.ndarray:
        """See `source.Source`."""
        return self.weights.read(name)

    def own_name(self, name: str) -> str:
        """See `source.Source`."""
        return name

    def tokenizer(self, scratch: Path) -> "Tokenizer":
        """See `source.Source`; the folder's own."""
        from alpaca_jax.data.tokenizer import load_tokenizer

        return load_tokenizer(self.path)


class FolderOfWeights:
    """The tensors of a folder without its description: what its one file, or the files of its index, hold together.

    Args:
      folder: the folder.
      forms: the forms that are looked for, in the order of preference; none for those of a model.

    Attributes:
      files: the index, where there is one, and the files with weights.
      tensors: every tensor by its name.

    Raises:
      UserError: no weights, a damaged file, an index that leaves the folder or names what is not there, or a tensor in
        two files.
    """

    def __init__(self, folder: Path, forms: Sequence["Form"] = ()):
        form = _form(folder, forms or WEIGHTS)
        index = None if (folder / form.single).is_file() else folder / form.index
        weight_map = {} if index is None else _read_index(index)
        weights = tuple(folder / name for name in dict.fromkeys(weight_map.values())) or (folder / form.single,)
        self.files: tuple[Path, ...] = weights if index is None else (index, *weights)
        self.tensors: dict[str, TensorInfo] = {}
        self._holders: dict[str, WeightFile] = {}
        for path in weights:
            file = form.open(path)
            for name, info in file.tensors.items():
                if name in self.tensors:
                    raise damaged(path, f"tensor {name} is in another file too", form.kind)
                self.tensors[name], self._holders[name] = info, file
        for name, file_name in weight_map.items():
            if name not in self.tensors and not name.endswith(_IGNORED_SUFFIX):
                raise damaged(folder / file_name, f"no tensor {name}, which {form.index} says is there", form.kind)

    def read(self, name: str) -> np.ndarray:
        """One tensor.

        Raises:
          UserError: it cannot be read.
        """
        return self._holders[name].read(name)


@dataclasses.dataclass(frozen=True)
class Form:
    """How a folder's weights may be stored."""

    kind: str
    single: str
    open: Callable[[Path], WeightFile]

    @property
    def index(self) -> str:
        """The name of the index, where there are several files."""
        return f"{self.single}.index.json"


# In the order of preference; as in transformers, the single file comes before the index.
WEIGHTS = (
    Form("safetensors", "model.safetensors", SafetensorsFile),
    Form("PyTorch weights", "pytorch_model.bin", TorchFile),
)


def _form(folder: Path, forms: Sequence[Form]) -> Form:
    for form in forms:
        if (folder / form.single).is_file() or (folder / form.index).is_file():
            return form
    others = [file.name for pattern in ("*.safetensors", "*.bin", "*.pth", "*.pt") for file in folder.glob(pattern)]
    raise UserError(
        str(folder),
        expected=", or ".join(f"{form.single} or {form.index}" for form in forms),
        found=f"none of them, but {min(others)}" if others else "none of them",
        remedy="download the missing files, or save the model again with transformers' save_pretrained",
    )


def _read_index(path: Path) -> dict[str, str]:
    """The index: tensor name to file name, each file in the folder itself."""
    value = read_json(path)
    weight_map = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(
            f"{path}, weight_map",
            expected="an object from tensor to file name",
            found=shorten(weight_map),
            remedy="download it again",
        )
    for name, file in weight_map.items():
        if not isinstance(file, str) or file in ("", ".", "..") or "/" in file or "\\" in file or "\0" in file:
            raise UserError(
                f"{path}, {name}",
                expected="the name of a file in the same folder",
                found=shorten(file),
                remedy="do not use this model: its index points elsewhere",
            )
    return weight_map
