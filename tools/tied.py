"""Runs a command that ends with the process that started it, however that one ends.

    [sys.executable, "-m", "tools.tied", str(os.getpid()), "python3", "-m", …]

On Linux the kernel sees to it. Elsewhere the command ends with its process group, as when a terminal is closed, and not
with its parent alone. A process of its own becomes the command, as nothing may run between fork and exec in a parent
with threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ties this process to its parent, and becomes the command."""
    parent, *command = sys.argv[1:]
    if prctl := getattr(ctypes.CDLL(None), "prctl", None):
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # every program here can be killed and goes on
        if os.getppid() != int(parent):  # it went before that was said
            sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
