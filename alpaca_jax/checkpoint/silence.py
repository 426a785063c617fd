"""Orbax talks; what matters of it reaches us as exceptions."""

import functools
import logging
import sys
from pathlib import Path
from typing import Any


@functools.cache
def silence_what_comes_as_an_exception_too() -> None:
    """Keeps the terminal free of Orbax's own account of its work and of its failures; those reach us as exceptions."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    show = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        # After a failure TensorStore still calls back into Orbax's event loop, which is closed by then, and the reads
        # that Orbax left unfinished complain when they are cleared away.
        code = getattr(unraisable.object, "cr_code", None)
        abandoned_read = code is not None and "orbax" in Path(code.co_filename).parts
        if str(unraisable.exc_value) != "Event loop is closed" and not abandoned_read:
            show(unraisable)

    sys.unraisablehook = hook
