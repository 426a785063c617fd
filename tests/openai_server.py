"""A server on the loopback that speaks OpenAI's protocol and answers what a script says; and a client in a hurry.

pytestmark = pytest.mark.usefixtures("asked_quickly")

def test_an_answer():
    with serving(lambda request: answer("Yes.")) as server:
        run("selfinstruct", f"--base_url={server.url}", …)
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest

KEY = "sk-a-key-that-no-file-may-hold"


@pytest.fixture
def asked_quickly(monkeypatch: pytest.MonkeyPatch):
    """Short waits between attempts, and a key that must never be written."""
    from alpaca_jax.remote import client

    monkeypatch.setattr(client, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(client, "LONGEST_WAIT_SECONDS", 0.05)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


class Reply(NamedTuple):
    """What the server does with a request: waits, then answers, or cuts the connection where `status` is 0."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = {}  # noqa: RUF012
    delay: float = 0.0


class Request(NamedTuple):
    """What the server was sent."""

    number: int
    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    time: float


Script = Callable[[Request], Reply]


def answer(*texts: str, finish: str = "stop", tokens: tuple[int, int] | None = (100, 50), chat: bool = True) -> Reply:
    """An answer with so many tokens of the prompt and of the texts, one to each prompt."""
    choices: list[dict[str, Any]] = [
        {"index": index, "finish_reason": finish}
        | ({"message": {"role": "assistant", "content": text}} if chat else {"text": text})
        for index, text in enumerate(texts)
    ]
    body: dict[str, Any] = {"id": "answer-1", "object": "chat.completion", "choices": choices[::-1]}
    if tokens:
        body["usage"] = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    return Reply(body)


def tasks_json(*instructions: str) -> str:
    """A model's answer after the schema, with these instructions."""
    return json.dumps(
        {"tasks": [{"instruction": text, "input": "", "output": f"It is {text}"} for text in instructions]}
    )


class Server:
    """The server's address, and what it was sent."""

    def __init__(self, port: int):
        self.url = f"http://127.0.0.1:{port}/v1"
        self.requests: list[Request] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()

    def enter(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Request:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self.requests.append(Request(len(self.requests), path, body, headers, time.monotonic()))
            return self.requests[-1]

    def leave(self) -> None:
        with self._lock:
            self._at_once -= 1


@contextlib.contextmanager
def serving(script: Script) -> Iterator[Server]:
    """A server that answers as the script says, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = script(server.enter(self.path, body, dict(self.headers)))
            over.wait(reply.delay)
            server.leave()
            if not reply.status:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
                self.close_connection = True
                return
            content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            with contextlib.suppress(ConnectionError):  # the client may have been killed
                self.send_response(reply.status)
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *unused: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *unused: Any) -> None:
            """Says nothing: clients are killed here."""

    over = threading.Event()
    http = Quiet(("127.0.0.1", 0), Handler)
    server = Server(http.server_address[1])
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        over.set()
        http.shutdown()
        http.server_close()
        thread.join()
