"""How tests run a server: the application on a free port of the loopback, in a thread."""

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from alpaca_jax.serving.app import create_app
from alpaca_jax.serving.server import make_server, open_socket
from alpaca_jax.serving.service import Service


class Served(NamedTuple):
    """A server, what is behind it, and its end."""

    service: Service
    port: int
    stop: Callable[[], None]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


@contextlib.contextmanager
def running(service: Service, folder: Path, key: str | None = None) -> Iterator[Served]:
    """Serves until the block ends."""
    ready = threading.Event()
    app = create_app(service, folder / "feedback.sqlite", key=key)
    with open_socket("127.0.0.1", 0) as opened:
        server = make_server(app, service.limits, ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()

        def stop() -> None:
            server.should_exit = True
            thread.join()

        try:
            assert ready.wait(60)
            yield Served(service, opened.getsockname()[1], stop)
        finally:
            stop()
            service.close()


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Any


def ask(port: int, path: str, body: Any = None, method: str | None = None, **headers: str) -> Answer:
    """One request over a connection of its own; a body that is not bytes goes as JSON, and JSON comes back read."""
    content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    given = {"Content-Type": "application/json"} if content is not None else {}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    with contextlib.closing(connection):
        connection.request(method or ("GET" if content is None else "POST"), path, content, given)
        response = connection.getresponse()
        text = response.read().decode()
        is_json = response.headers.get_content_type() == "application/json"
        fields = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, fields, json.loads(text) if is_json else text)


def eventually(holds: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether something comes to hold in time."""
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.005)
    return holds()


def metric(port: int, name: str) -> float:
    """The value of a line of /metrics, named with its labels."""
    lines = ask(port, "/metrics").body.splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name} ")), 0.0)
