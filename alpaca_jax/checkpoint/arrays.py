"""The parameters of one saved step, read slice by slice on the host: no devices, and no more than what is asked for."""

from pathlib import Path
from typing import Any

import numpy as np

from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import read_json

# What TensorStore may keep of the index into the step's files.
_INDEX_CACHE_BYTES = 2**26


class SavedParameters:
    """The parameters of a step, whether the trainer saved it, on any mesh, or `streaming.save_streamed`.

    Args:
      step: the step's folder.

    Raises:
      UserError: it holds no parameters.
    """

    def __init__(self, step: Path):
        import tensorstore

        self._step = step
        self._folder = step / "parameters"
        description = read_json(self._folder / "_METADATA")
        try:
            leaves = [entry["key_metadata"] for entry in description["tree_metadata"].values()]
            self.paths = tuple(".".join(str(key["key"]) for key in keys) for keys in leaves)
            self._driver = "zarr3" if description["use_zarr3"] else "zarr"
        except (AttributeError, KeyError, TypeError) as error:
            raise self._damaged("_METADATA", error) from error
        self._opened: dict[str, Any] = {}
        self._context = tensorstore.Context({"cache_pool": {"total_bytes_limit": _INDEX_CACHE_BYTES}})

    def shape(self, path: str) -> tuple[int, ...]:
        """The shape of the parameter at a path of the tree, joined by dots.

        Raises:
          UserError: there is none, or its description is damaged.
        """
        return tuple(self._open(path).shape)

    def dtype(self, path: str) -> np.dtype:
        """Its type as saved.

        Raises:
          UserError: there is none, or its description is damaged.
        """
        return self._open(path).dtype.numpy_dtype

    def read(self, path: str, layer: int | None = None) -> np.ndarray:
        """The parameter, or one slice of it along its first axis.

        Raises:
          UserError: it cannot be read.
        """
        array = self._open(path)
        try:
            return (array if layer is None else array[layer]).read(order="C").result()
        except ValueError as error:
            raise self._damaged(path, error) from error

    def _open(self, path: str) -> Any:
        import tensorstore

        if path in self._opened:
            return self._opened[path]
        if path not in self.paths:
            raise self._damaged(path, "no such parameter")
        spec = {
            "driver": self._driver,
            "kvstore": {"driver": "ocdbt", "base": {"driver": "file", "path": f"{self._folder}/"}, "path": f"{path}/"},
            "cache_pool": {"total_bytes_limit": 0},  # pieces are read once
            "recheck_cached_metadata": False,
            "fill_missing_data_reads": False,
        }
        try:
            self._opened[path] = tensorstore.open(spec, context=self._context, open=True, read=True).result()
        except ValueError as error:
            raise self._damaged(path, error) from error
        return self._opened[path]

    def _damaged(self, path: str, error: object) -> UserError:
        return UserError(
            f"{self._step}, parameter {path}",
            expected="a whole checkpoint",
            found=shorten(str(error), 200),
            remedy="delete that step's folder, so that the one before it is used",
        )
