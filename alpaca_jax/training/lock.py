"""One run at a time in a work directory."""

import contextlib
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from alpaca_jax.support.errors import UserError
from alpaca_jax.support.progress import console

LOCK = ".lock"
# File systems without locks: Lustre mounted without `flock`, some in user space.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


@contextlib.contextmanager
def sole_use(workdir: Path, flag: str = "--workdir") -> Iterator[None]:
    """Keeps other runs out of a work directory, which `flag` names, as long as the block lasts.

    The lock is the kernel's (flock), on a file that stays; the kernel drops it when the process ends, however it ends,
    so that none is left behind. Over NFS, Linux passes it on to the server, which drops it for a machine that has gone.
    Where the file system knows no locks, a line says so.

    Raises:
      UserError: another run holds it; the line names its machine and process.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / LOCK, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                str(workdir),
                expected="a work directory that no other run is using",
                found=_holder(file.read()),
                remedy=f"wait for that run or stop it, or choose another {flag}",
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            console.print(f"[yellow]{workdir} cannot be locked there[/]: see that no other run uses it")
        file.truncate(0)
        file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}) + "\n")
        file.flush()
        yield


def _holder(said: str) -> str:
    try:
        holder = json.loads(said)
        return f"process {holder['pid']} on {holder['host']}"
    except (ValueError, TypeError, KeyError):
        return "one that has not said who it is"
