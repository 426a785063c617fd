"""Updates one after another without a pause for the devices: each is handed to them before the one ahead is read."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from alpaca_jax.parallel.mesh import place_batch
from alpaca_jax.training.clock import Clock, Timing
from alpaca_jax.training.state import TrainState

Metrics = dict[str, float]
# (state, batch) to (state, metrics), compiled; the state is donated
Step = Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]

# No update is quicker; speeds are divided by its time.
_LEAST_SECONDS = 1e-6


class Pipeline:
    """The state as it goes from update to update, and the updates that the devices still work on.

    Args:
      step: the compiled train step.
      state: where it begins; donated.
      batches: of this process, from the first update on.
      mesh: where they go.
      clock: counts as `input` what time the devices spend waiting for a batch.
      measured: told the number, the metrics and the time of each update, in their order.

    Attributes:
      state: after the newest update that was handed over; its arrays may not have been computed yet.
    """

    def __init__(
        self,
        step: Step,
        state: TrainState,
        batches: Iterator[Mapping[str, np.ndarray]],
        mesh: Mesh,
        clock: Clock,
        measured: Callable[[int, Metrics, Timing], None],
    ):
        self.state = state
        self._step, self._batches, self._mesh, self._clock, self._measured = step, batches, mesh, clock, measured
        self._under_way: deque[_UnderWay] = deque()
        self._free_since = 0.0  # the end of the last update that was read, or of the pause after it

    def update(self, number: int) -> None:
        """Hands the next update to the devices, then reads the one before, which `measured` is told of."""
        began = time.perf_counter()
        if not self._under_way:
            self._free_since = began
        batch = place_batch(self._mesh, next(self._batches))
        came = time.perf_counter()
        ahead_ended = self._under_way[-1].ended if self._under_way else began
        if ahead_ended is not None:
            self._clock.set_apart(came - max(began, ahead_ended), "input")
        self.state, metrics = self._step(self.state, batch)
        self._under_way.append(_UnderWay(number, metrics, came - began))
        self._read(leave=1)

    def drain(self) -> None:
        """Reads all updates under way: the devices are idle then, and the logs complete."""
        self._read(leave=0)

    def _read(self, leave: int) -> None:
        while len(self._under_way) > leave:
            update = self._under_way.popleft()
            values, ended = update.result()
            # On a busy machine a thread may be woken, and note an end, later than that of the next update does.
            seconds = max(ended - self._free_since, _LEAST_SECONDS)
            timing = Timing(seconds, update.waited, self._clock.goodput())
            self._free_since = max(ended, self._free_since)
            self._measured(update.number, values, timing)


class _UnderWay(threading.Thread):
    """An update that the devices work on. It notes the moment of its end, whatever the program does meanwhile."""

    def __init__(self, number: int, metrics: Mapping[str, jax.Array], waited: float):
        super().__init__(daemon=True)
        self.number, self.waited = number, waited
        self.ended: float | None = None
        self._metrics = metrics
        self.start()

    def run(self) -> None:
        try:
            for value in self._metrics.values():
                value.block_until_ready()
        except Exception:
            return  # `result` meets it again, where somebody listens
        self.ended = time.perf_counter()

    def result(self) -> tuple[Metrics, float]:
        """Its metrics and the moment of its end, when it has come."""
        self.join()
        values = {name: float(value) for name, value in jax.device_get(self._metrics).items()}
        assert self.ended is not None
        return values, self.ended
