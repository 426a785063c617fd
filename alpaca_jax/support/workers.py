"""Work shared out among processes: results in order, errors as they were raised, and no process left behind."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any, TypeVar

from alpaca_jax.support.errors import UserError

K = TypeVar("K")
T = TypeVar("T")
R = TypeVar("R")

# One process reads and collects for all; more than this many others only wait for it, and cost 100 MB each.
_MOST_PROCESSES = 8
# How many items each process has waiting, so that none is idle while results are collected.
_ITEMS_AHEAD = 3
# How many results may wait for an earlier one.
_RESULTS_AHEAD = 16


def ordered_map(work: Callable[[T], R], items: Iterable[tuple[K, T]]) -> Iterator[tuple[K, R]]:
    """For each (key, item), in their order, (key, `work(item)`), computed in this process and several others.

    This process works on an item where the others have enough, so that it is not idle while they start, nor when they
    are slower; a single item stays here. Keys stay here. `work` must be picklable and is copied once to each process.
    Few items are read ahead of their results. However the iteration ends (at its end, by an error of `work`, by Ctrl-C,
    by `close`), the processes end with it; they also end when this process is killed.

    Raises:
      UserError: a process was killed.
      Exception: what `work` raises, at the place of its item.
    """
    stream = iter(items)
    first = list(islice(stream, 2))
    others = min(_processors(), _MOST_PROCESSES) - 1
    if len(first) < 2 or not others:
        yield from ((key, work(item)) for key, item in chain(first, stream))
        return
    pool = ProcessPoolExecutor(others, multiprocessing.get_context("spawn"), _set_up, (work,))
    pending: deque[tuple[K, Future[R]]] = deque()
    away: deque[Future[R]] = deque()
    try:
        for key, item in chain(first, stream):
            while away and away[0].done():
                away.popleft()
            if len(away) < others * _ITEMS_AHEAD:
                away.append(_submit(pool, item))
                pending.append((key, away[-1]))
            else:
                pending.append((key, _here(work, item)))
            while pending and (pending[0][1].done() or len(pending) > _RESULTS_AHEAD):
                key, result = pending.popleft()
                yield key, result.result()
        for key, result in pending:
            yield key, result.result()
    except BrokenProcessPool as error:
        raise UserError(
            "worker processes",
            expected="that they run to their end",
            found="one was killed, perhaps for want of memory",
            remedy="free some memory and start again",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _here(work: Callable[[T], R], item: T) -> Future[R]:
    """The result of an item in this process, or the error that it ended with."""
    done: Future[R] = Future()
    try:
        done.set_result(work(item))
    except Exception as error:  # it is raised at its place
        done.set_exception(error)
    return done


def _processors() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _submit(pool: ProcessPoolExecutor, item: Any) -> Future[Any]:
    """Hands over an item; a process that is started for it never sees Ctrl-C, which is this process's to handle."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(_call, item)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_work: Callable[[Any], Any]


def _set_up(work: Callable[[Any], Any]) -> None:
    """Begins a worker process."""
    global _work
    _work = work
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when its parent is gone: the queue it waits at would never tell."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _call(item: Any) -> Any:
    return _work(item)
