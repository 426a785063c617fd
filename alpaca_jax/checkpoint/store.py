"""Saved steps in a checkpoint folder, by Orbax: asynchronous, sharded, each committed whole or not at all.

A step holds `parameters` (always), and, where a training run wrote it, `optimiser`, `progress` (a JSON object) and, if
it was evaluated, `metrics` with the loss on held-out rows.
"""

import contextlib
import errno
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN
from orbax.checkpoint.type_handlers import TypeHandlerRegistry

from alpaca_jax.checkpoint.folder import BEST, NEWEST
from alpaca_jax.checkpoint.integrity import fault_of, write_checksums
from alpaca_jax.checkpoint.silence import silence_what_comes_as_an_exception_too
from alpaca_jax.checkpoint.steady_clock import steady_orbax
from alpaca_jax.support.errors import UserError, shorten

PARAMETERS, _OPTIMISER, _PROGRESS = "parameters", "optimiser", "progress"
_LOSS = "eval_loss"

# Of the pieces that an array is cut into on the disk; a device that needs a part of a piece reads all of it.
_PIECE_BYTES = 2**22


class Store:
    """The steps of one checkpoint folder.

    Args:
      folder: where they lie.
      keep: how many of the newest are kept; None keeps all.
      keep_best: how many of those with the lowest held-out loss are kept besides.
      leaves: what writes the parameters' leaves, uncompressed, in place of Orbax's own handlers; `save` then returns
        when all is on the disk.

    Raises:
      UserError: the folder cannot be written.
    """

    def __init__(
        self, folder: Path, keep: int | None = None, keep_best: int = 0, leaves: TypeHandlerRegistry | None = None
    ):
        silence_what_comes_as_an_exception_too()
        steady_orbax()
        self._folder, self._under_way = folder, -1
        handlers = {}
        if leaves is not None:
            handlers[PARAMETERS] = ocp.PyTreeCheckpointHandler(type_handler_registry=leaves, use_compression=False)
        best = BestN(get_metric_fn=_loss, reverse=True, n=keep_best, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy([LatestN(keep), best]),
            best_fn=_loss,
            best_mode="min",
            enable_async_checkpointing=leaves is None,
            # Called when all is written and the step has not got its name yet.
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal) if leaves is None else None,
        )
        try:
            self._manager = _manager(folder, options, handlers)
        except OSError as error:
            raise self._cannot_write(error) from error

    def latest_step(self) -> int | None:
        """The newest committed step, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The saved step with the lowest held-out loss, the newest of equals; None where no step has such a loss."""
        return self._manager.best_step()

    def find(self, name: str) -> int:
        """The number of a saved step.

        Args:
          name: `newest`, `best` or a number, as `CheckpointFolder.step` has it.

        Raises:
          UserError: there is none of that name.
        """
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise UserError(
                str(self._folder), expected="at least one saved step", found="none", remedy="train until one is saved"
            )
        found = {NEWEST: steps[-1], BEST: self.best_step()} | {str(step): step for step in steps}
        if (step := found.get(name)) is None:
            raise UserError(
                f"{self._folder}/{name}",
                expected="a save with a held-out loss" if name == BEST else "a saved step",
                found=f"none among {', '.join(map(str, steps))}",
                remedy=f"take one of these, as {self._folder}/{steps[-1]}",
            )
        return step

    def save(
        self,
        step: int,
        parameters: Any,
        optimiser: Any = None,
        progress: dict[str, Any] | None = None,
        eval_loss: float | None = None,
    ) -> None:
        """Starts saving a step; the arrays may be changed or donated as soon as this returns.

        Args:
          step: its number.
          parameters: a tree of arrays.
          optimiser: the optimiser's tree, of a training run.
          progress: what else a training run needs to go on.
          eval_loss: the loss on held-out rows, by which the best steps are found; one that is not a finite number is
            none.

        Raises:
          UserError: this save, or the one before it, could not be written.
        """
        items: dict[str, Any] = {PARAMETERS: ocp.args.StandardSave(parameters, jax.tree.map(cut, parameters))}
        if optimiser is not None:
            items |= {_OPTIMISER: ocp.args.StandardSave(optimiser), _PROGRESS: ocp.args.JsonSave(progress or {})}
        measured = eval_loss is not None and math.isfinite(eval_loss)
        self.save_items(step, items, {_LOSS: eval_loss} if measured else None)

    def save_items(
        self, step: int, items: Mapping[str, ocp.args.CheckpointArgs], metrics: dict[str, Any] | None = None
    ) -> None:
        """Saves what Orbax's own arguments say.

        Raises:
          UserError: this save, or the one before it, could not be written.
        """
        try:
            self._manager.wait_until_finished()
            self._under_way = step
            self._manager.save(step, metrics=metrics, args=ocp.args.Composite(**items))
        except (OSError, ValueError, RuntimeError) as error:
            raise self._cannot_write(error) from error

    def restore_parameters(self, abstract: Any, step: int | str | None = None) -> Any:
        """The parameters of a step, straight into the shardings and types of `abstract`.

        Args:
          abstract: a tree of `jax.ShapeDtypeStruct` with shardings.
          step: its number, or a name that `find` takes; None for the newest.

        Raises:
          UserError: there is no such step, or it cannot be read.
        """
        step = self.find(str(NEWEST if step is None else step))
        if fault := fault_of(self._folder / str(step), (PARAMETERS,)):
            raise self._damaged(step, fault)
        return self._restore(step, {PARAMETERS: ocp.args.StandardRestore(abstract)})[PARAMETERS]

    def restore(self, step: int, parameters: Any, optimiser: Any) -> tuple[Any, Any, dict[str, Any]]:
        """Parameters, optimiser and progress of a step, straight into the shardings of the abstract trees given.

        Its checksums are for the caller to look at, who has another step to take (see `integrity.discard_damaged`).

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

    def progress(self, step: int) -> dict[str, Any]:
        """The progress of a step that a training run wrote.

        Raises:
          UserError: the step cannot be read, or holds none.
        """
        return self._restore(step, {_PROGRESS: ocp.args.JsonRestore()})[_PROGRESS]

    def wait(self) -> None:
        """Waits until the last save is committed.

        Raises:
          UserError: it could not be written.
        """
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError, RuntimeError) as error:
            raise self._cannot_write(error) from error

    def close(self) -> None:
        """Waits until the last save is committed, and lets go of the folder.

        Raises:
          UserError: it could not be written.
        """
        self.wait()
        try:
            self._manager.close()
        except (OSError, ValueError, RuntimeError) as error:
            raise self._cannot_write(error) from error

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, kind: Any, *unused: object) -> None:
        if kind is None:
            self.close()
        elif jax.process_count() == 1:  # several end each other, and one that is gone would be waited for in vain
            with contextlib.suppress(UserError):
                self.wait()

    def _seal(self) -> None:
        """Writes the checksums of the step under way, in a thread of Orbax's and in process 0."""
        (unfinished,) = self._folder.glob(f"{self._under_way}.*")
        write_checksums(unfinished)

    def _restore(self, step: int, items: dict[str, Any]) -> Any:
        handlers = {
            name: ocp.StandardCheckpointHandler(restore_concurrent_gb=_gigabytes_at_one_time(item.item))
            for name, item in items.items()
            if isinstance(item, ocp.args.StandardRestore)
        }
        try:
            with _manager(self._folder, ocp.CheckpointManagerOptions(read_only=True), handlers) as manager:
                return manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax raises this bare class for what TensorStore cannot read
            raise self._damaged(step, shorten(str(_root(error)), 200)) from None

    def _damaged(self, step: int, fault: str) -> UserError:
        return UserError(
            f"{self._folder}/{step}",
            expected="a whole checkpoint",
            found=fault,
            remedy="delete that step's folder, so that the one before it is used",
        )

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


def _loss(metrics: Mapping[str, float]) -> float:
    return metrics[_LOSS]


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
