"""The one thread that steps the engines, so that the event loop never waits for a model."""

import logging
import threading
import traceback
from collections.abc import Callable, Sequence

from alpaca_jax.generation.engine import Engine

_log = logging.getLogger(__name__)


class EngineThread:
    """Steps engines, each in its turn, while any has something to do.

    One thread for all: programs of several devices that two threads start in different orders would wait for each
    other without end.
    """

    def __init__(self, engines: Sequence[Engine]):
        """Starts the thread."""
        self._engines = tuple(engines)
        self._wake, self._over = threading.Event(), False
        self._lock = threading.Lock()
        self._mourners: dict[object, Callable[[], None]] = {}
        self.failed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """To be called after something was submitted."""
        self._wake.set()

    def on_failure(self, key: object, call: Callable[[], None]) -> None:
        """Calls, from the thread, when an engine has failed; at once if it has already. `forget` takes it back."""
        with self._lock:
            self._mourners[key] = call
            failed = self.failed
        if failed:
            call()

    def forget(self, key: object) -> None:
        """Takes back `on_failure`."""
        with self._lock:
            self._mourners.pop(key, None)

    def stop(self) -> None:
        """Ends the thread after the step it is at."""
        self._over = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._over:
                self._wake.clear()
                busy = [engine.step() for engine in self._engines]
                if not any(busy):
                    self._wake.wait()
        except Exception as error:
            # Without the error's own words, which may quote a prompt.
            place = traceback.extract_tb(error.__traceback__)[-1]
            _log.error("the engine failed: %s at %s:%s", type(error).__name__, place.filename, place.lineno)
            with self._lock:
                self.failed, mourners = True, list(self._mourners.values())
            for call in mourners:
                call()
