"""SIGTERM and Ctrl-C: the update under way is finished and saved, and all processes stop after the same one."""

import json
import os
import signal
import threading
from types import FrameType
from typing import Any

from alpaca_jax.parallel.exchange import place_among_all, post, posted
from alpaca_jax.parallel.processes import is_first
from alpaca_jax.support.errors import Stopped
from alpaca_jax.support.program import EXIT_INTERRUPTED, EXIT_START_AGAIN

_CODES = {"SIGTERM": EXIT_START_AGAIN, "Ctrl-C": EXIT_INTERRUPTED}
_ASKED, _DECIDED = "stop asked", "stop decided"
# The others read the result of an update before they decide over the one after the next: see `_decided`.
_UPDATES_TO_BE_HEARD = 2


class StopRequests:
    """Catches SIGTERM and Ctrl-C while it is entered.

    Before the updates, when nothing would be lost, either ends the program at once; from `defer` on they wait to be
    asked for. Ctrl-C a second time ends it whatever it is doing.
    """

    def __init__(self) -> None:
        self._asked: str | None = None
        self._deferred = self._passed_on = False
        self._decision: tuple[int, str] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequests":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *unused: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def defer(self) -> None:
        """From now on requests wait for `after`."""
        self._deferred = True
        # One that came as an exception may have been lost, as those in a destructor are.
        if self._asked and place_among_all()[1] == 1:
            raise _nothing_done(self._asked)

    def after(self, number: int) -> str | None:
        """Who asked to stop after update `number` (`SIGTERM` or `Ctrl-C`), the same in all processes; None to go on.

        Several processes may hear of it some updates later than one.

        Args:
          number: of the update that was handed to the devices last; all processes come here after each.
        """
        if place_among_all()[1] == 1:
            return self._asked
        if self._asked and not self._passed_on:
            post(_ASKED, self._asked)
            self._passed_on = True
        self._decision = self._decision or self._decided(number)
        return self._decision[1] if self._decision and number >= self._decision[0] else None

    def _decided(self, number: int) -> tuple[int, str] | None:
        """After which update to stop, and who asked.

        Process 0 decides, for the update after the next. No process hands that one over before it has read the result
        of the next, which takes all of them, and process 0 joins in only when its decision can be read.
        """
        if is_first() and (asked := posted(_ASKED)):
            post(_DECIDED, json.dumps([number + _UPDATES_TO_BE_HEARD, asked[0]]))
        decided = posted(_DECIDED)
        return tuple(json.loads(decided[0])) if decided else None

    def _take(self, number: int, frame: FrameType | None) -> None:
        again = self._asked == "Ctrl-C"
        self._asked = "SIGTERM" if number == signal.SIGTERM else "Ctrl-C"
        if not self._deferred:
            raise KeyboardInterrupt if number == signal.SIGINT else _nothing_done(self._asked)
        if number == signal.SIGINT:
            # Not by way of an exception, which would wait for a save under way.
            os.write(
                2, b"interrupted\n" if again else b"finishing this update and saving; Ctrl-C again stops at once\n"
            )
            if again:
                os._exit(EXIT_INTERRUPTED)


def stopped(asked: str, number: int) -> Stopped:
    """The end of a run that was asked to stop and is saved after update `number`."""
    return Stopped(f"stopped by {asked} after update {number}, which is saved; run again to go on", _CODES[asked])


def _nothing_done(asked: str) -> Stopped:
    return Stopped(f"stopped by {asked} before the first update; run again to go on", _CODES[asked])
