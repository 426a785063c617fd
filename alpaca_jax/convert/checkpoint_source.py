"""A checkpoint of this project as a source, so that whatever reads other programs' models reads ours as well."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alpaca_jax.checkpoint.arrays import SavedParameters
from alpaca_jax.checkpoint.folder import CheckpointFolder
from alpaca_jax.convert.certificate import CERTIFICATE, Certificate
from alpaca_jax.convert.names import tensors_in_order
from alpaca_jax.convert.pipeline import contiguous
from alpaca_jax.convert.source import TensorInfo
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.hashing import sha256_file

if TYPE_CHECKING:
    from alpaca_jax.data.tokenizer import Tokenizer


class CheckpointSource:
    """A `source.Source`: a step (the newest) of what `convert import` wrote, or of a work directory of `train`.

    Nothing is put onto devices; a tensor is read from the disk when it is asked for.

    Args:
      path: the checkpoint.

    Attributes:
      folder: its description.
      certificate: what `convert import` wrote of each tensor; None for what was trained.

    Raises:
      UserError: no complete checkpoint, no step in it, or a damaged one.
    """

    kind = "alpaca_jax"

    def __init__(self, path: Path):
        self.folder = CheckpointFolder.open(path)
        self.path, self.model = self.folder.path, self.folder.model
        step = _saved_step(self.folder)
        self._parameters = SavedParameters(step)
        self.certificate = self._own_certificate()
        described = [*self.path.iterdir(), *(self.path / "tokenizer").iterdir(), *step.rglob("*")]
        self.files = tuple(sorted(path for path in described if path.is_file()))
        self._places = {name: (row, layer) for row, layer, name in tensors_in_order(self.model)}
        self.tensors: dict[str, TensorInfo] = {}
        for name, (row, layer) in self._places.items():
            shape = row.our_shape(self.model) if layer is None else (self.model.num_layers, *row.our_shape(self.model))
            if self._parameters.shape(row.ours) != shape:
                raise UserError(
                    f"{self.path}, {row.ours}",
                    expected=f"shape {shape}",
                    found=f"{self._parameters.shape(row.ours)}",
                    remedy="use the model.json that belongs to the step",
                )
            self.tensors[name] = TensorInfo(row.their_shape(self.model), self._own_type(name))

    def read(self, name: str) -> np.ndarray:
        """See `source.Source`."""
        row, layer = self._places[name]
        tensor = contiguous(row.to_theirs(self._parameters.read(row.ours, layer), self.model))
        # Layers of different types were saved in one of float32, which has every number of theirs.
        with np.errstate(over="ignore"):
            return tensor.astype(self.tensors[name].dtype, copy=False)

    def own_name(self, name: str) -> str:
        """See `source.Source`."""
        return name

    def tokenizer(self, scratch: Path) -> "Tokenizer":
        """See `source.Source`; the folder's own."""
        return self.folder.tokenizer()

    def _own_type(self, name: str) -> np.dtype:
        """The type that the tensor had where it was imported from, or the one that it was saved in."""
        if self.certificate is not None and name in self.certificate.tensors:
            return self.certificate.dtype(name)
        return self._parameters.dtype(self._places[name][0].ours)

    def _own_certificate(self) -> Certificate | None:
        expected = self.folder.provenance.get("certificate")
        if expected is None:
            return None
        certificate = Certificate.read(self.path)
        if (found := sha256_file(self.path / CERTIFICATE)) != expected:
            raise UserError(
                str(self.path / CERTIFICATE),
                expected=f"the file that the import wrote, SHA-256 {expected[:12]}",
                found=found[:12],
                remedy="import the model again",
            )
        return certificate


def _saved_step(folder: CheckpointFolder) -> Path:
    """Where the numbers of the step that is meant lie."""
    from alpaca_jax.checkpoint.store import Store

    with Store(folder.path) as store:
        return folder.path / str(store.find(folder.step))
