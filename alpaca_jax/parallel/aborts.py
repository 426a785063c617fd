"""How a process ends that is left behind by one that died."""

import ctypes
import functools
import os
import signal

from alpaca_jax.support.program import EXIT_START_AGAIN

_KEPT: list[object] = []  # C holds on to them, unknown to Python


@functools.cache
def end_with_a_line_when_jax_aborts() -> None:
    """Ends this process with a line, and the code that asks for a new start, where JAX would abort it.

    That is how JAX ends those that are left when one has died: in C++, with a stack trace and the code 134.
    """

    def end(signal_number: int) -> None:
        os.write(2, b"\nerror: another process of this run has died; what was saved stands, start all again to go on\n")
        os._exit(EXIT_START_AGAIN)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)
    _KEPT.append(handler)
    # Python's own handlers run in the main thread, which waits for the dead one; this runs in the thread that aborts.
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
