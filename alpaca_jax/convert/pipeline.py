"""What lets reading, turning, hashing and writing go on at one time, within bounded memory."""

import contextlib
import queue
import threading
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from alpaca_jax.support.files import explain_os_errors
from alpaca_jax.support.hashing import sha256_file_unless

T = TypeVar("T")

# Columns copied at one time: this many rows of the source stay in the processor's cache meanwhile.
_COLUMNS = 16


def ahead(items: Iterable[T]) -> Generator[T, None, None]:
    """The items, each made by another thread while the one before it is in use.

    At most three exist at one time: in use, waiting, and being made. What `items` raises comes out here; when this is
    left early, the thread ends after the item that it is making.
    """
    waiting: queue.Queue[Any] = queue.Queue(maxsize=1)
    abandoned = threading.Event()
    end = object()

    def make() -> None:
        try:
            for item in items:
                _put(waiting, (item, None), abandoned)
                del item
                if abandoned.is_set():
                    return
            _put(waiting, (end, None), abandoned)
        except BaseException as error:
            _put(waiting, (end, error), abandoned)

    thread = threading.Thread(target=make, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
            del item
    finally:
        abandoned.set()
        thread.join()


def _put(waiting: queue.Queue[Any], item: Any, abandoned: threading.Event) -> None:
    """Waits for a place in the queue, but not once nobody takes anything from it any more."""
    while not abandoned.is_set():
        with contextlib.suppress(queue.Full):
            waiting.put(item, timeout=0.1)
            return


class FileSums:
    """SHA-256 of files, computed by a thread beside other work, as a context manager.

    Leaving the block ends the thread, whether it was done or not.

    Args:
      files: what to hash, each named by its own name, or relative to `root` where that is given.
    """

    def __init__(self, files: Sequence[Path], root: Path | None = None):
        self._names = [(file.name if root is None else file.relative_to(root).as_posix(), file) for file in files]
        self._abandoned = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sums")
        self._sums: Future[list[dict[str, str]]] | None = None

    def __enter__(self) -> "FileSums":
        """Starts hashing."""
        self._sums = self._thread.submit(self._hash_all)
        return self

    def __exit__(self, *unused: object) -> None:
        """Ends it."""
        self._abandoned.set()
        self._thread.shutdown()

    def result(self) -> list[dict[str, str]]:
        """`{"name", "sha256"}` of each file, in the order given.

        Raises:
          UserError: one of them cannot be read.
        """
        assert self._sums is not None, "not entered"
        return self._sums.result()

    def _hash_all(self) -> list[dict[str, str]]:
        return [{"name": name, "sha256": self._hash(file)} for name, file in self._names]

    def _hash(self, file: Path) -> str:
        with explain_os_errors(file):
            return sha256_file_unless(file, self._abandoned.is_set)


def contiguous(view: np.ndarray) -> np.ndarray:
    """The array in C order: itself where it lies so, a copy otherwise.

    numpy's own copy of a transposed matrix walks down its columns and misses the cache at every step; going a few
    columns at a time is eight times as fast. Only views whose axes were permuted and cut are meant.
    """
    if view.flags.c_contiguous:
        return view
    result = np.empty(view.shape, view.dtype)
    # Types of other libraries are copied element by element; plain integers of the same width are not.
    bits = np.dtype(f"u{view.dtype.itemsize}")
    source, target = view.view(bits), result.view(bits)
    fastest = min(range(view.ndim), key=lambda axis: view.strides[axis])
    if fastest == view.ndim - 1:
        target[...] = source
        return result
    before = (slice(None),) * (fastest + 1)
    for between in np.ndindex(*view.shape[fastest + 1 : -1]):
        index = before[: view.ndim - 1 - len(between)] + between
        for start in range(0, view.shape[-1], _COLUMNS):
            columns = (*index, slice(start, start + _COLUMNS))
            target[columns] = source[columns]
    return result
