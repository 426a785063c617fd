"""Progress of long work: a bar on a terminal, plain lines otherwise. Everything goes to standard error."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

T = TypeVar("T")

# Results go to standard output and everything said along the way to standard error, so that a result can be piped.
console = Console(stderr=True, highlight=False, soft_wrap=True)
if not console.is_terminal:
    console = Console(
        stderr=True, highlight=False, soft_wrap=True, width=120
    )  # rich would take 80, which breaks tables

_SECONDS_BETWEEN_PLAIN_LINES = 5.0


def silence() -> None:
    """Says nothing more along the way: where several processes do the same work, one speaks for all."""
    console.quiet = True


class ProgressBar:
    """A bar that counts to `total`, as a context manager; `advance` moves it, and `note` says how things stand."""

    def __init__(self, title: str, total: int | None, start: int = 0):
        self._title, self._total, self._done = title, total, start
        self._last_line = time.monotonic()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._task = self._bar.add_task(title, total=total, completed=start, note="")

    def __enter__(self) -> "ProgressBar":
        """Shows the bar, where there is a terminal to show it on."""
        if console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *unused: object) -> None:
        """Leaves the finished bar standing."""
        if console.is_terminal:
            self._bar.stop()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Counts `count` more as done; `note` is a few words shown beside the bar."""
        self._done += count
        self._bar.update(self._task, advance=count, note=note)
        finished = self._done == self._total
        if not console.is_terminal and (finished or time.monotonic() - self._last_line > _SECONDS_BETWEEN_PLAIN_LINES):
            self._last_line = time.monotonic()
            of = "" if self._total is None else f"/{self._total}"
            console.print(f"{self._title} {self._done}{of}  {note}".rstrip(), markup=False)


@contextlib.contextmanager
def waiting(title: str) -> Iterator[None]:
    """Says what is being waited for: a spinner on a terminal, which goes when it is over; a line otherwise."""
    if console.is_terminal:
        with console.status(title):
            yield
    else:
        console.print(title, markup=False)
        yield


def track(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """The items, one by one, with a progress bar."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with ProgressBar(title, total) as bar:
        for item in items:
            yield item
            bar.advance()
