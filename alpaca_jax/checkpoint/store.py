"""Saved steps in a checkpoint folder, by Orbax: asynchronous, sharded, each committed whole or not at all.

A step holds `parameters` (always), and, where a training run wrote it, `optimiser` and `progress` (a JSON object).
"""

import errno
import functools
import logging
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.type_handlers import TypeHandlerRegistry

from alpaca_jax.support.errors import UserError, shorten

PARAMETERS, _OPTIMISER, _PROGRESS = "parameters", "optimiser", "progress"

# Of the pieces that an array is cut into on the disk; a device that needs a part of a piece reads all of it.
_PIECE_BYTES = 2**22


class Store:
    """The steps of one checkpoint folder.

    Args:
      folder: where they lie.
      keep: how many of the newest are kept; None keeps all.
      leaves: what writes the parameters' leaves, uncompressed, in place of Orbax's own handlers; `save` then returns
        when all is on the disk.

    Raises:
      UserError: the folder cannot be written.
    """

    def __init__(self, folder: Path, keep: int | None = None, leaves: TypeHandlerRegistry | None = None):
        _silence_what_comes_as_an_exception_too()
        self._folder = folder
        handlers = {}
        if leaves is not None:
            handlers[PARAMETERS] = ocp.PyTreeCheckpointHandler(type_handler_registry=leaves, use_compression=False)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=leaves is None)
        try:
            self._manager = _manager(folder, options, handlers)
        except OSError as error:
            raise self._cannot_write(error) from error

    def latest_step(self) -> int | None:
        """The newest committed step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, parameters: Any, optimiser: Any = None, progress: dict[str, Any] | None = None) -> None:
        """Starts saving a step; the arrays may be changed or donated as soon as this returns.

        Raises:
          UserError: this save, or the one before it, could not be written.
        """
        items: dict[str, Any] = {PARAMETERS: ocp.args.StandardSave(parameters, jax.tree.map(cut, parameters))}
        if optimiser is not None:
            items |= {_OPTIMISER: ocp.args.StandardSave(optimiser), _PROGRESS: ocp.args.JsonSave(progress or {})}
        self.save_items(step, items)

    def save_items(self, step: int, items: Mapping[str, ocp.args.CheckpointArgs]) -> None:
        """Saves what Orbax's own arguments say.

        Raises:
          UserError: this save, or the one before it, could not be written.
        """
        try:
            self._manager.save(step, args=ocp.args.Composite(**items))
        except (OSError, ValueError, RuntimeError) as error:
            raise self._cannot_write(error) from error

    def restore_parameters(self, abstract: Any, step: int | None = None) -> Any:
        """The parameters of a step (the newest), straight into the shardings and types of `abstract`.

        Args:
          abstract: a tree of `jax.ShapeDtypeStruct` with shardings.
          step: the step, or None for the newest.

        Raises:
          UserError: there is no step, or it cannot be read.
        """
        return self._restore(step, {PARAMETERS: ocp.args.StandardRestore(abstract)})[PARAMETERS]

    def restore(self, step: int, parameters: Any, optimiser: Any) -> tuple[Any, Any, dict[str, Any]]:
        """Parameters, optimiser and progress of a step, straight into the shardings of the abstract trees given.

        Raises:
          UserError: the step cannot be read, or holds no optimiser.
        """
        restored = self._restore(
            step,
            {
                PARAMETERS: ocp.args.StandardRestore(parameters),
                _OPTIMISER: ocp.args.StandardRestore(optimiser),
                _PROGRESS: ocp.args.JsonRestore(),
            },
        )
        return restored[PARAMETERS], restored[_OPTIMISER], restored[_PROGRESS]

    def close(self) -> None:
        """Waits until the last save is committed.

        Raises:
          UserError: it could not be written.
        """
        try:
            self._manager.wait_until_finished()
            self._manager.close()
        except (OSError, ValueError, RuntimeError) as error:
            raise self._cannot_write(error) from error

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, kind: Any, *unused: object) -> None:
        if kind is None:
            self.close()

    def _restore(self, step: int | None, items: dict[str, Any]) -> Any:
        step = self.latest_step() if step is None else step
        if step is None:
            raise UserError(
                str(self._folder), expected="at least one saved step", found="none", remedy="train until one is saved"
            )
        handlers = {
            name: ocp.StandardCheckpointHandler(restore_concurrent_gb=_gigabytes_at_one_time(item.item))
            for name, item in items.items()
            if isinstance(item, ocp.args.StandardRestore)
        }
        try:
            with _manager(self._folder, ocp.CheckpointManagerOptions(read_only=True), handlers) as manager:
                return manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax raises this bare class for what TensorStore cannot read
            raise UserError(
                f"{self._folder}/{step}",
                expected="a whole checkpoint",
                found=shorten(str(_root(error)), 200),
                remedy="delete that step's folder, so that the one before it is used",
            ) from None

    def _cannot_write(self, error: Exception) -> UserError:
        return UserError(
            str(self._folder),
            expected="to write a checkpoint there",
            found=_reason(error),
            remedy="check the path, its permissions and the room on its disk, then run again",
        )


def _manager(folder: Path, options: Any, handlers: Mapping[str, ocp.CheckpointHandler]) -> ocp.CheckpointManager:
    registry = ocp.handlers.create_default_handler_registry(**handlers)
    return ocp.CheckpointManager(folder.absolute(), options=options, handler_registry=registry)


def _gigabytes_at_one_time(abstract: Any) -> int:
    """How much Orbax may have read and not yet handed to the devices: by itself it reads everything at once.

    It refuses a limit below one device's part of one array, in whole pieces; no part is larger than the array.
    """
    leaves = jax.tree.leaves(abstract)
    return max(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves) // 10**9 + 1


def _root(error: BaseException) -> BaseException:
    """The error that an error was raised from."""
    return _root(error.__cause__) if error.__cause__ else error


def _reason(error: Exception) -> str:
    """What the operating system said, out of the long story that TensorStore makes of it."""
    known = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
    said = (os.strerror(number) for number in known if os.strerror(number) in str(error))
    return next(said, shorten(str(error), 200)).lower()


@functools.cache
def _silence_what_comes_as_an_exception_too() -> None:
    """Keeps the terminal free of Orbax's own account of its work and of its failures; those reach us as exceptions."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    show = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        # After a failure TensorStore still calls back into Orbax's event loop, which is closed by then, and the reads
        # that Orbax left unfinished complain when they are cleared away.
        code = getattr(unraisable.object, "cr_code", None)
        abandoned_read = code is not None and "orbax" in Path(code.co_filename).parts
        if str(unraisable.exc_value) != "Event loop is closed" and not abandoned_read:
            show(unraisable)

    sys.unraisablehook = hook


def cut(array: Any) -> ocp.SaveArgs:
    """How a parameter is cut on the disk: into small pieces, none of which holds numbers of two layers.

    A layer is thus read, and each device reads its part, without most of the rest.

    Args:
      array: whatever has a shape. Those of three axes and more are stacks of layers.
    """
    return ocp.SaveArgs(chunk_byte_size=_PIECE_BYTES, shard_axes=(0,) if len(array.shape) > 2 else ())


def abstract_parameters(shapes: Any, shardings: Any, dtype: Any) -> Any:
    """`jax.ShapeDtypeStruct` of each parameter, with its sharding and the given type."""
    return jax.tree.map(lambda s, place: jax.ShapeDtypeStruct(s.shape, dtype, sharding=place), shapes, shardings)
