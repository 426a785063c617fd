"""How tests start several processes that find each other over loopback."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

_LIMIT_SECONDS = 240


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def environment(address: str, count: int, index: int, **more: str) -> dict[str, str]:
    """What a launcher would set, over what the tests run in."""
    places = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(index)}
    return os.environ | places | more


@contextlib.contextmanager
def started(count: int, *arguments: str, **more: str) -> Iterator[list[subprocess.Popen]]:
    """`count` processes of `python ARGUMENTS`; none outlives the block."""
    address = f"127.0.0.1:{free_port()}"
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=environment(address, count, index, **more),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()


def ends_of(processes: list[subprocess.Popen]) -> list[tuple[int, str]]:
    """Exit code and standard error of each, when all have ended."""
    said = [process.communicate(timeout=_LIMIT_SECONDS)[1] for process in processes]
    return [(process.returncode, err) for process, err in zip(processes, said, strict=True)]


def run_together(count: int, *arguments: str, **more: str) -> list[tuple[int, str]]:
    """Exit code and standard error of each of `count` processes of `python ARGUMENTS`."""
    with started(count, *arguments, **more) as processes:
        return ends_of(processes)
