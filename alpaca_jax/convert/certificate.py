"""`certificate.json`: what an imported or exported folder was made from, and what each of its tensors is.

    kind       the form of the source
    files      SHA-256 of every file that was read
    model      the model description
    tensors    of each, under Hugging Face's name: type, shape, and the SHA-256 of its bytes in that type and in Hugging
               Face's layout
    versions   of what wrote it

It holds no time and no path: the same input gives the same bytes.
"""

import dataclasses
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np

import alpaca_jax
from alpaca_jax.convert.bits import FLOATS, sha256_tensor
from alpaca_jax.convert.source import Source
from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import read_json, write_json_atomic
from alpaca_jax.support.progress import track

CERTIFICATE = "certificate.json"
_FORMAT = 1
_PACKAGES = ("jax", "numpy", "orbax-checkpoint", "safetensors")


@dataclasses.dataclass(frozen=True)
class Certificate:
    """See the top of this file.

    Attributes:
      files: `{"name", "sha256"}` of each.
      tensors: `{"dtype", "shape", "sha256"}` of each.
    """

    kind: str
    files: list[dict[str, str]]
    model: dict[str, Any]
    tensors: dict[str, dict[str, Any]]

    def write(self, folder: Path) -> None:
        """Puts it into the folder.

        Raises:
          UserError: the folder cannot be written.
        """
        packages = {package: importlib.metadata.version(package) for package in _PACKAGES}
        versions = {"alpaca_jax": alpaca_jax.__version__} | packages
        write_json_atomic(folder / CERTIFICATE, {"format": _FORMAT} | dataclasses.asdict(self) | {"versions": versions})

    @classmethod
    def read(cls, folder: Path) -> "Certificate":
        """The certificate of a folder.

        Raises:
          UserError: there is none, or it is damaged or of another version.
        """
        path = folder / CERTIFICATE
        value = read_json(path)
        form = value.get("format") if isinstance(value, dict) else None
        if form != _FORMAT:
            raise _refuse(f"{path}", f"a certificate of format {_FORMAT}", shorten(form))
        parts = {field.name: value.get(field.name) for field in dataclasses.fields(cls)}
        for name, kind in {"kind": str, "files": list, "model": dict, "tensors": dict}.items():
            if not isinstance(parts[name], kind):
                raise _refuse(f"{path}, {name}", f"a {kind.__name__}", shorten(parts[name]))
        for name, record in parts["tensors"].items():
            if not (isinstance(record, dict) and record.keys() == {"dtype", "shape", "sha256"}):
                raise _refuse(f"{path}, {name}", "dtype, shape and sha256", shorten(record))
        return cls(**parts)

    def dtype(self, name: str) -> np.dtype:
        """The type of a tensor.

        Raises:
          UserError: the file says something that is none.
        """
        said = self.tensors[name]["dtype"]
        if said not in FLOATS:
            raise _refuse(f"{CERTIFICATE}, {name}", f"a type among {', '.join(FLOATS)}", shorten(said))
        return FLOATS[said]

    def expect(self, source: Source, name: str, sha256: str) -> None:
        """Holds the SHA-256 of a tensor that was just read against the one in here.

        Raises:
          UserError: it is another.
        """
        expected = self.tensors[name]["sha256"] if name in self.tensors else "none at all"
        if sha256 != expected:
            raise UserError(
                f"{source.path}, tensor {source.own_name(name)}",
                expected=f"the numbers that {CERTIFICATE} vouches for, SHA-256 {expected[:12]}",
                found=sha256[:12],
                remedy="the files were changed or damaged since: make them again from their source",
            )


def tensor_record(tensor: np.ndarray) -> dict[str, Any]:
    """What a certificate says of a tensor."""
    return {"dtype": str(tensor.dtype), "shape": list(tensor.shape), "sha256": sha256_tensor(tensor)}


def check_certificate(source: Source) -> int:
    """Reads every tensor of a source that has a certificate and holds it against that.

    Returns:
      How many tensors were checked.

    Raises:
      UserError: a tensor is missing, one too many, or not what it was; it is named.
    """
    certificate = Certificate.read(source.path)
    if different := certificate.tensors.keys() ^ source.tensors.keys():
        name = min(different)
        found = "one that it does not list" if name in source.tensors else "none"
        raise _refuse(f"{source.path}, tensor {name}", f"the tensors that {CERTIFICATE} lists", found)
    for name in track(source.tensors, "checking tensors"):
        certificate.expect(source, name, sha256_tensor(source.read(name)))
    return len(source.tensors)


def _refuse(subject: str, expected: str, found: str) -> UserError:
    return UserError(subject, expected=expected, found=found, remedy="make the folder again from its source")
