"""Where a run's wall time goes, and how much of it trains the model."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator

STEPS = "updates"
# Every moment counts to one of these; `rest` is logs, profiles, and whatever has no name of its own.
PARTS = ("start", "compilation", STEPS, "input", "evaluation", "samples", "saves", "rest")


@dataclasses.dataclass(frozen=True)
class Timing:
    """The wall time of an update, in seconds.

    Attributes:
      seconds: from the end of the update before it, or of what came between the two, to its own end.
      input_wait_seconds: how long the program waited for its batch and laid it onto the devices, which may have been
        busy with the update before it meanwhile.
      goodput: the run's goodput at its end; see `Clock.goodput`.
    """

    seconds: float
    input_wait_seconds: float
    goodput: float


class Clock:
    """Counts the wall time of this process, each moment to one part of `PARTS`; it begins in `start`."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._part, self._since = "start", time.perf_counter()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts the time of the block to a part, less what the block itself counts to others."""
        outer = self._part
        self._turn_to(name)
        try:
            yield
        finally:
            self._turn_to(outer)

    def set_apart(self, seconds: float, name: str) -> None:
        """Counts some of the seconds just gone to another part than the one they ran in."""
        self._turn_to(self._part)
        self._seconds[self._part] -= seconds
        self._seconds[name] += seconds

    def seconds(self) -> dict[str, float]:
        """The wall time of each part so far."""
        self._turn_to(self._part)
        return dict(self._seconds)

    def goodput(self) -> float:
        """The share of this process's wall time, from its beginning until now, in which its devices made updates.

        After Google's ML goodput (https://cloud.google.com/tpu/docs/goodput): time that moved the training on, over all
        time. Against it count starting, compilation, restoring, evaluation, sample answers, saves, and waits for input
        that left the devices idle. Updates that a killed process has to make again are not known here.
        """
        seconds = self.seconds()
        return seconds[STEPS] / sum(seconds.values())

    def _turn_to(self, name: str) -> None:
        now = time.perf_counter()
        self._seconds[self._part] += now - self._since
        self._part, self._since = name, now


def in_words(seconds: dict[str, float]) -> str:
    """One line on where the time went, the largest parts first; what took under a hundredth is left out."""
    whole = sum(seconds.values())
    parts = sorted(((spent, name) for name, spent in seconds.items() if spent >= whole / 100), reverse=True)
    shares = ", ".join(f"{name} {spent / whole:.0%}" for spent, name in parts)
    return f"where the {whole:,.0f} s went: {shares} (goodput {seconds[STEPS] / whole:.0%})"
