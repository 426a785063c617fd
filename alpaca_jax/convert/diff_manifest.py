"""`diff.json`: what a weight diff was made from and what must come out of it, tensor by tensor.

DIFF/
diff.json                        this manifest; written last, so a folder without it is not complete
diff-00001-of-00013.safetensors  xor mode: the bits, in files that no program takes for a model
model-00001-of-00026.safetensors additive mode: the differences, in the published form
config.json, tokenizer.json, …   of the tuned model
"""

import dataclasses
import re
from functools import partial
from pathlib import Path
from typing import Any

import alpaca_jax
from alpaca_jax.convert.bits import FLOATS
from alpaca_jax.convert.huggingface import Form
from alpaca_jax.convert.safetensors_file import BITS, SafetensorsFile
from alpaca_jax.convert.source import TensorInfo
from alpaca_jax.convert.weight_diff import Xor
from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import read_json, write_json_atomic

MANIFEST = "diff.json"
XOR, ADDITIVE = "xor", "additive"
# The files of xor mode.
BITS_FORM = Form("safetensors", f"{Xor.stem}.safetensors", partial(SafetensorsFile, types=BITS))
_FORMAT = 1
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class TensorRecord:
    """One tensor of a diff.

    Attributes:
      info: shape and type of the result; of the tuned tensor in xor mode, float32 in additive mode.
      base_info: shape and type of the base's tensor.
      base: SHA-256 of the base's bytes, in its own type.
      diff: SHA-256 of the diff's bytes.
      result: SHA-256 of the result's bytes.
    """

    info: TensorInfo
    base_info: TensorInfo
    base: str
    diff: str
    result: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of `diff.json`.

    Attributes:
      mode: `xor` or `additive`.
      tensors: by Hugging Face's names, in the order in which they lie in the files.
      files: SHA-256 of each file that goes along, by name.
      figures: additive mode: the sums of all elements, and by how much the result differs from the tuned model.
    """

    mode: str
    tensors: dict[str, TensorRecord]
    files: dict[str, str]
    figures: dict[str, float]

    def write(self, folder: Path) -> None:
        """Writes `diff.json`.

        Raises:
          UserError: the folder cannot be written.
        """
        tensors = {
            name: {"shape": list(record.info.shape), "dtype": str(record.info.dtype)}
            | {"base_shape": list(record.base_info.shape), "base_dtype": str(record.base_info.dtype)}
            | {"base": record.base, "diff": record.diff, "result": record.result}
            for name, record in self.tensors.items()
        }
        value = {"format": _FORMAT, "alpaca_jax": alpaca_jax.__version__, "mode": self.mode}
        write_json_atomic(folder / MANIFEST, value | {"files": self.files, "figures": self.figures, "tensors": tensors})

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Reads `diff.json`.

        Raises:
          UserError: it is not whole, or of another version; where it can be known, the tensor is named.
        """
        path = folder / MANIFEST
        value = read_json(path)
        if not isinstance(value, dict) or value.get("format") != _FORMAT:
            found = shorten(value.get("format") if isinstance(value, dict) else value)
            raise _refuse(str(path), f"a manifest of format {_FORMAT}", found)
        mode, tensors, files = value.get("mode"), value.get("tensors"), value.get("files")
        if mode not in (XOR, ADDITIVE):
            raise _refuse(f"{path}, mode", f"{XOR!r} or {ADDITIVE!r}", shorten(mode))
        if not isinstance(tensors, dict) or not tensors:
            raise _refuse(f"{path}, tensors", "an object from tensor to record", shorten(tensors))
        if not isinstance(files, dict) or not all(_is_sha256(sha256) for sha256 in files.values()):
            raise _refuse(f"{path}, files", "an object from file to SHA-256", shorten(files))
        records = {name: _read_record(f"{path}, tensor {name}", record) for name, record in tensors.items()}
        return cls(mode, records, files, value.get("figures", {}))


def _read_record(subject: str, value: Any) -> TensorRecord:
    if not isinstance(value, dict):
        raise _refuse(subject, "a record", shorten(value))
    for key in ("base", "diff", "result"):
        if not _is_sha256(value.get(key)):
            raise _refuse(f"{subject}, {key}", "a SHA-256", shorten(value.get(key)))
    infos = []
    for prefix in ("", "base_"):
        shape, dtype = value.get(f"{prefix}shape"), value.get(f"{prefix}dtype")
        if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
            raise _refuse(f"{subject}, {prefix}shape", "a list of sizes", shorten(shape))
        if not isinstance(dtype, str) or dtype not in FLOATS:
            raise _refuse(f"{subject}, {prefix}dtype", " or ".join(FLOATS), shorten(dtype))
        infos.append(TensorInfo(tuple(shape), FLOATS[dtype]))
    return TensorRecord(infos[0], infos[1], value["base"], value["diff"], value["result"])


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _refuse(subject: str, expected: str, found: str) -> UserError:
    return UserError(subject, expected=expected, found=found, remedy="get the diff again from where it was published")
