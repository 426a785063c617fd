"""Traces of chosen updates, to be opened in XProf."""

from pathlib import Path

import jax

from alpaca_jax.support.progress import console


class Profile:
    """A trace of the updates from `first` to `last`, both included, as far as the run makes them.

    Args:
      folder: where it goes.
      steps: (first, last), or () for none.
    """

    def __init__(self, folder: Path, steps: tuple[int, ...]):
        self._folder, self._steps = folder, range(steps[0], steps[1] + 1) if steps else range(0)
        self._running = False

    def turns_at(self, step: int) -> bool:
        """Whether it begins or ends between update `step` and the one before; no update may be under way then."""
        return (step in self._steps) != self._running

    def turn(self) -> None:
        """Begins, or ends."""
        if self._running:
            self.end()
        else:
            jax.profiler.start_trace(self._folder)
            self._running = True

    def end(self) -> None:
        """Writes the trace, if there is one, and says how to look at it."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
            console.print(
                f"profile of updates {self._steps[0]} to {self._steps[-1]}: pip install xprof, then "
                f"xprof --logdir={self._folder}",
                markup=False,
            )
