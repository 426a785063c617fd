"""A pair file for the tests of `evaluate annotate`, and its page on a free port of the loopback."""

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from alpaca_jax.evaluation.annotate_app import create_app
from alpaca_jax.evaluation.pairs import Key, Letter, Pair, Pairs, write_pairs
from alpaca_jax.evaluation.votes import Votes
from alpaca_jax.serving.server import make_server, open_socket
from alpaca_jax.serving.settings import Limits

NAMES = ("Alpakka-Seven", "Davidson-Three")
SCRIPT = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> & <b>bold</b>"
LONG = "It goes on about the matter. " * 300 + "x" * 500


def pair(number: int) -> Pair:
    """Answer `a` is the longer one where the number is even."""
    answers = [f"Short {number}", f"A rather longer answer, number {number}"]
    if number == 2:
        answers = [SCRIPT, LONG]
    a, b = answers[::-1] if number % 2 == 0 else answers
    return Pair(f"task {number}", f"Say something about {number}.", f"material {number}" * (number % 3), "talk", a, b)


def make_pairs(path: Path, count: int = 6) -> Pairs:
    pairs = Pairs(7, tuple(map(pair, range(count))))
    writers = {one.id: ("model", "baseline")[number % 2] for number, one in enumerate(pairs.pairs)}
    write_pairs(path, pairs, Key(*NAMES, writers, ()))
    return pairs


def longer(one: Pair) -> Letter:
    return "a" if len(one.a) > len(one.b) else "b"


@contextlib.contextmanager
def serving(pairs: Pairs, votes: Votes, key: str | None = None) -> Iterator[str]:
    """The address of the page."""
    ready = threading.Event()
    limits = Limits(body_bytes=2**16)
    with open_socket("127.0.0.1", 0) as opened:
        server = make_server(create_app(pairs, votes, limits, key=key), limits, ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        try:
            assert ready.wait(60)
            yield f"http://127.0.0.1:{opened.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextlib.contextmanager
def started(files: tuple[Path, Path], port: int) -> Iterator[subprocess.Popen]:
    """The program as a user starts it, when it takes requests; killed in the end, if not before."""
    command = [sys.executable, "-m", "alpaca_jax.evaluate", "annotate", f"--pairs={files[0]}", f"--votes={files[1]}"]
    with subprocess.Popen([*command, f"--port={port}"], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert f"http://127.0.0.1:{port}/" in process.stderr.readline()
            yield process
        finally:
            process.kill()
