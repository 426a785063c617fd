"""A Hugging Face folder as a source: `config.json`, and safetensors in one file or in shards with an index."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from alpaca_jax.convert.huggingface_config import read_model_config
from alpaca_jax.convert.source import TensorInfo
from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import read_json

if TYPE_CHECKING:
    from alpaca_jax.data.tokenizer import Tokenizer

_CONFIG, _SINGLE, _INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
# Old files hold each layer's rotary frequencies, which follow from the configuration.
_IGNORED_SUFFIX = ".rotary_emb.inv_freq"


class HuggingFaceFolder:
    """A `source.Source`; nothing in it is ever unpickled.

    Args:
      folder: the folder.

    Raises:
      UserError: not a LLaMA, something that this project does not compute, or damaged files.
    """

    kind = "huggingface"

    def __init__(self, folder: Path):
        self.path = folder
        self.model = read_model_config(read_json(folder / _CONFIG), str(folder / _CONFIG))
        weights, index = _weight_files(folder)
        self.files = (folder / _CONFIG, *([folder / _INDEX] if index is not None else []), *weights)
        self._handles: dict[str, Any] = {}
        self.tensors: dict[str, TensorInfo] = {}
        for file in weights:
            self._open(file)
        if index is not None:
            self._check_index(index)

    def read(self, name: str) -> np.ndarray:
        """See `source.Source`."""
        try:
            return self._handles[name].get_tensor(name)
        except Exception as error:  # the library's own class, or the operating system's
            raise _damaged(self.path, f"tensor {name}: {error}") from error

    def own_name(self, name: str) -> str:
        """See `source.Source`."""
        return name

    def tokenizer(self, scratch: Path) -> "Tokenizer":
        """See `source.Source`; the folder's own."""
        from alpaca_jax.data.tokenizer import load_tokenizer

        return load_tokenizer(self.path)

    def _open(self, file: Path) -> None:
        """Reads the header of one file; the library holds its lengths against the file's size."""
        from safetensors import SafetensorError, safe_open

        try:
            handle = safe_open(file, framework="numpy")
            names = handle.keys()
            headers = [(name, handle.get_slice(name)) for name in names]
        except FileNotFoundError as error:
            raise UserError(
                str(file), expected="a file that the index names", found="no such file", remedy="download it again"
            ) from error
        except (SafetensorError, OSError, ValueError) as error:
            raise _damaged(file, str(error)) from error
        for name, header in headers:
            if name.endswith(_IGNORED_SUFFIX):
                continue
            dtype = header.get_dtype()
            if dtype not in _DTYPES:
                raise UserError(
                    f"{file}, tensor {name}",
                    expected=f"a type among {', '.join(_DTYPES)}",
                    found=str(dtype),
                    remedy="choose the model's own weights, not a quantised copy",
                )
            if name in self.tensors:
                raise _damaged(file, f"tensor {name} is in another file too")
            self.tensors[name] = TensorInfo(tuple(header.get_shape()), _DTYPES[dtype])
            self._handles[name] = handle

    def _check_index(self, weight_map: dict[str, str]) -> None:
        for name, file in weight_map.items():
            if name not in self.tensors and not name.endswith(_IGNORED_SUFFIX):
                raise _damaged(self.path / file, f"no tensor {name}, which {_INDEX} says is there")


def _weight_files(folder: Path) -> tuple[list[Path], dict[str, str] | None]:
    """The files with weights, and the index where there is one; as transformers, the single file comes first."""
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE], None
    if (folder / _INDEX).is_file():
        weight_map = _read_index(folder / _INDEX)
        return [folder / file for file in dict.fromkeys(weight_map.values())], weight_map
    pickles = [file.name for pattern in ("*.bin", "*.pth", "*.pt") for file in sorted(folder.glob(pattern))]
    raise UserError(
        str(folder),
        expected=f"{_SINGLE} or {_INDEX}",
        found=f"only {pickles[0]}, a pickle, which can run code when it is read" if pickles else "neither",
        remedy="get the model's safetensors, or save it again with transformers' save_pretrained",
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


def _damaged(file: Path, found: str) -> UserError:
    return UserError(
        str(file), expected="whole safetensors", found=shorten(found, 160), remedy="download the model again"
    )
