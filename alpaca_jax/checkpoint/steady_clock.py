"""Orbax measures how long a save takes by the time of day; here by a clock that nobody sets."""

import functools
import sys
import time
import types


@functools.cache
def steady_orbax() -> None:
    """Has Orbax read a clock that goes on evenly from the present time of day, whatever the machine's is set to.

    By the time of day a save during which that is set forwards by minutes would count as one that takes too long, and
    be given up. Orbax has no option for this; where its modules stop calling `time.time`, nothing is changed.
    """
    ahead = time.time() - time.monotonic()
    steady = types.SimpleNamespace(**(vars(time) | {"time": lambda: ahead + time.monotonic()}))
    for name, module in list(sys.modules.items()):
        if name.startswith("orbax.checkpoint.") and vars(module).get("time") is time:
            vars(module)["time"] = steady
