"""Numbers that go wrong: updates without a finite loss or gradient, and losses that leap."""

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping

# A loss is a spike if it lies so many standard deviations above the median of those before it, the deviation taken from
# the median absolute deviation (the factor is that of a normal distribution), which a few spikes do not move.
_DEVIATIONS = 6.0
_NORMAL = 1.4826
_WINDOW, _FEWEST = 64, 16
# Of the median: what a loss that has settled may differ by without being called a spike.
_LEAST_DEVIATION = 0.01


class NumberWatch:
    """Looks at the numbers of each update, in their order.

    Args:
      losses: of the updates before, oldest first; None where one was not finite.

    Attributes:
      bad_in_a_row: how many updates up to the last had a loss or gradient that is not finite.
    """

    def __init__(self, losses: Iterable[float | None] = ()):
        self.bad_in_a_row = 0
        self._losses = deque((loss for loss in losses if loss is not None), maxlen=_WINDOW)

    def look(self, metrics: Mapping[str, float]) -> dict[str, bool]:
        """What is remarkable about an update: `skipped` and `spike`, each only where it is so."""
        loss = metrics["loss"]
        if not (math.isfinite(loss) and math.isfinite(metrics["grad_norm"])):
            self.bad_in_a_row += 1
            return {"skipped": True}
        self.bad_in_a_row = 0
        spike = self._leaps(loss)
        self._losses.append(loss)
        return {"spike": True} if spike else {}

    def _leaps(self, loss: float) -> bool:
        if len(self._losses) < _FEWEST:
            return False
        median = statistics.median(self._losses)
        deviation = _NORMAL * statistics.median(abs(other - median) for other in self._losses)
        return loss - median > _DEVIATIONS * max(deviation, _LEAST_DEVIATION * median)
