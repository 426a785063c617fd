"""The application behind a socket: how it opens, how long it waits for a client, how it ends."""

import asyncio
import contextlib
import ipaddress
import resource
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from alpaca_jax.serving.settings import Limits
from alpaca_jax.support.errors import UserError

# In the environment: what clients must have, as a bearer's token or as the password of a browser's dialogue.
KEY = "ALPACA_JAX_API_KEY"

# Connections that the kernel keeps until they are accepted, and that are accepted at one go.
_BACKLOG = 1024
_MOST_FILES = 65_536
# For answers under way when the server is told to end.
_LAST_SECONDS = 30
# After so long a connection whose other end takes nothing more is given up.
_UNREAD_SECONDS = 120


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches a server at this address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def client_key(host: str, environment: Mapping[str, str]) -> str | None:
    """The key that clients of a server at this address must have; None for a server that asks for none.

    Raises:
      UserError: no key where other machines reach the server, or one that no header can hold.
    """
    key = environment.get(KEY) or None
    if not key and not is_loopback(host):
        raise UserError(
            f"--host={host}",
            expected=f"{KEY} in the environment, since others reach that address",
            found="none",
            remedy="set it, or listen at 127.0.0.1",
        )
    if key and not key.isascii():
        raise UserError(KEY, expected="ASCII, as HTTP has it", found="other characters", remedy="choose another key")
    return key


def open_socket(host: str, port: int) -> socket.socket:
    """A socket at an address, not listening yet; port 0 takes any that is free.

    Raises:
      UserError: no such address, or one that is taken.
    """
    place = f"--host={host} --port={port}"
    if not 0 <= port <= 65_535:
        raise UserError("--port", expected="a whole number from 0 to 65,535", found=str(port), remedy="correct it")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise UserError(place, expected="an address of this machine", found=str(error), remedy="correct it") from error
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; connections take it over
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_SECONDS * 1000)
        opened.bind(address)
    except OSError as error:
        opened.close()
        reason = (error.strerror or str(error)).lower()
        raise UserError(place, expected="a free address", found=reason, remedy="choose another port") from error
    return opened


def url_of(host: str, opened: socket.socket) -> str:
    """Where a browser finds a server that listens at `host` with this socket."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{opened.getsockname()[1]}"


def run(app: FastAPI, opened: socket.socket, limits: Limits, announce: Callable[[], object]) -> None:
    """Serves until a signal ends it; answers under way are finished first, within half a minute.

    SIGTERM ends it as a return, Ctrl-C as a `KeyboardInterrupt`.

    Args:
      app: what `create_app` made.
      opened: from `open_socket`.
      limits: how long a client may take.
      announce: called when requests are taken.
    """
    _allow_many_files()
    server = make_server(app, limits, announce)
    # uvicorn ends by raising the signal again that has ended it.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        server.run(sockets=[opened])
    finally:
        signal.signal(signal.SIGTERM, before)


def make_server(app: FastAPI, limits: Limits, announce: Callable[[], object]) -> uvicorn.Server:
    """The server that `run` runs."""

    class Patient(PatientProtocol):
        header_seconds = limits.header_seconds

    config = uvicorn.Config(
        app,
        # asyncio's own loop reads what has come before it looks at its clocks; uvloop does it the other way round, and
        # under ten thousand connections would take a request that waits to be read for one that never came.
        loop="asyncio",
        http=Patient,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",  # uvicorn's warnings are about clients
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_LAST_SECONDS,
    )
    return _Announced(config, announce)


class PatientProtocol(H11Protocol):
    """HTTP/1.1 whose patience ends: a connection sends the head of a request in time, or is closed."""

    header_seconds: float
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the clock."""
        super().connection_made(transport)
        self._wait_for_head()

    def on_response_complete(self) -> None:
        """Starts it again for a further request."""
        self._wait_for_head()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops it."""
        if self._deadline:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        if self._deadline:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(self.header_seconds, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


class _Announced(uvicorn.Server):
    """A server that says when it is ready, and tells the demo's open pages when it ends."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], object]):
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.app.state.end_pages()  # type: ignore[union-attr]
        await super().shutdown(sockets)


def _allow_many_files() -> None:
    """Raises the soft limit of open files, each connection being one, towards the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted: Any = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
