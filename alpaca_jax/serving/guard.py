"""What stands before every request: who may ask, how much, and how fast; and the answer to whatever goes wrong."""

import asyncio
import base64
import binascii
import hmac
import logging
import traceback
from collections.abc import Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alpaca_jax.serving.metrics import Metrics
from alpaca_jax.serving.refusal import Refusal
from alpaca_jax.serving.settings import Limits

_log = logging.getLogger(__name__)

# Counted by their own names; whatever else is asked for is the demo's, or nothing.
_ENDPOINTS = ("/v1/completions", "/v1/chat/completions", "/v1/models", "/healthz", "/metrics")
_CLIENT_HAS_GONE = 499  # as nginx counts it
HEALTH = "/healthz"


class Guard:
    """Middleware around the whole application.

    Args:
      app: what it guards.
      limits: of bodies.
      metrics: where requests are counted.
      key: that a request must carry, as a bearer's token or as the password of a browser's dialogue; None for none.
      hosts: the names under which a server without a key may be asked for. Another one in the `Host` header is a page
        from elsewhere that had its name resolved to this machine.
    """

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics, key: str | None, hosts: Collection[str]):
        self._app, self._limits, self._metrics, self._key = app, limits, metrics, key
        self._hosts = {*hosts, "localhost", "127.0.0.1", "::1"}
        self._buffered = _Buffered(limits.buffered_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        body = _Body(receive, self._limits, self._buffered)
        try:
            self._admit(scope)
            body.check_length(Headers(scope=scope).get("content-length"))
            await self._app(scope, body.receive, watched)
        except Exception as error:
            refusal = _refusal_for(error)
            if refusal is None:
                status = status or _CLIENT_HAS_GONE
            elif not status:
                await refusal.response()(scope, receive, watched)
        finally:
            body.release()
            endpoint = scope["path"] if scope["path"] in _ENDPOINTS else "other"
            self._metrics.requests.labels(endpoint, str(status or _CLIENT_HAS_GONE)).inc()

    def _admit(self, scope: MutableMapping[str, Any]) -> None:
        """Raises a refusal for whoever may not ask."""
        headers = Headers(scope=scope)
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        if self._key is not None and scope["path"] != HEALTH:
            given = credentials.strip() if scheme.lower() == "bearer" else _password(scheme, credentials)
            if not hmac.compare_digest(given.encode(), self._key.encode()):
                message = "This server wants its API key: Authorization: Bearer KEY."
                raise Refusal(401, "invalid_request_error", message, "invalid_api_key")
        host = headers.get("host", "")
        if self._key is None and not self._knows(host):
            message = "This server, which has no API key, answers only under its own name. Set ALPACA_JAX_API_KEY."
            raise Refusal(403, "invalid_request_error", message, "unknown_host")
        # A browser sends a page's origin along; one from elsewhere is nobody whom the user has asked to ask.
        origin = headers.get("origin")
        if origin is not None and scheme.lower() != "bearer" and urlsplit(origin).netloc.lower() != host.lower():
            message = "This server does not answer to pages from elsewhere."
            raise Refusal(403, "invalid_request_error", message, "foreign_origin")

    def _knows(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._hosts or name.endswith(".localhost")


def _password(scheme: str, credentials: str) -> str:
    """The password of HTTP's basic scheme, under any user's name."""
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _refusal_for(error: Exception) -> Refusal | None:
    """What to answer to an error; None where nobody is there to hear it."""
    if isinstance(error, ClientDisconnect):
        return None
    if isinstance(error, Refusal):
        return error
    # Without the error's own words, which may quote a prompt.
    place = traceback.extract_tb(error.__traceback__)[-1]
    _log.error("a request failed: %s at %s:%s", type(error).__name__, place.filename, place.lineno)
    return Refusal(500, "server_error", "Something has gone wrong here. See the server's log.")


class _Buffered:
    """The bytes of all bodies in memory."""

    def __init__(self, most: int):
        self.most, self.now = most, 0


class _Body:
    """The body of one request, as long as it is allowed to be and no slower."""

    def __init__(self, receive: Receive, limits: Limits, buffered: _Buffered):
        self._receive, self._limits, self._buffered = receive, limits, buffered
        self._length, self._complete = 0, False
        self._deadline = asyncio.get_running_loop().time() + limits.body_seconds

    def check_length(self, announced: str | None) -> None:
        """Raises a refusal for a body that is announced as too long."""
        if announced and announced.isdigit() and int(announced[:18]) > self._limits.body_bytes:
            raise self._too_long()

    async def receive(self) -> Message:
        """As ASGI's `receive`."""
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            words = f"The body did not arrive within {self._limits.body_seconds:g} s."
            raise Refusal(408, "invalid_request_error", words, "timeout", close=True) from None
        length = len(message.get("body", b""))
        self._length += length
        self._buffered.now += length
        self._complete = not message.get("more_body", False)
        if self._length > self._limits.body_bytes:
            raise self._too_long()
        if self._buffered.now > self._buffered.most:
            words = "The server is reading too many long requests. Try again in a little while."
            raise Refusal(503, "server_error", words, "overloaded", retry_after=5, close=True)
        return message

    def release(self) -> None:
        """Gives up its share of the memory."""
        self._buffered.now -= self._length

    def _too_long(self) -> Refusal:
        words = f"A request may have {self._limits.body_bytes:,} bytes at most. Shorten it."
        return Refusal(413, "invalid_request_error", words, "request_too_large")
