"""Clients that are many, slow, gone or greedy harm nobody else."""

import contextlib
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from alpaca_jax.serving.service import ServedModel, Service
from alpaca_jax.serving.settings import Limits
from tests.serving.server import Served, ask, eventually, metric, running

LIMITS = Limits(queue=2, timeout=60, body_bytes=20_000, body_seconds=0.5, header_seconds=1.0, choices=3)


@pytest.fixture(scope="module")
def strict(model: ServedModel, tmp_path_factory: pytest.TempPathFactory):
    """A server with room for two answers besides the two of its slots."""
    with running(Service([model], limits=LIMITS), tmp_path_factory.mktemp("strict")) as server:
        yield server


def body(**more) -> dict:
    return {"model": "tiny", "prompt": "Name a metal.", "max_tokens": 5, "temperature": 0} | more


def raw(port: int, content: bytes, path: str = "/v1/completions", length: int | None = None) -> socket.socket:
    """A connection over which a request, perhaps not all of it, has been sent."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(content) if length is None else length}\r\n\r\n".encode() + content)
    return connection


def free(served: Served) -> bool:
    engine = served.service.model(None).engine
    return engine.running == engine.waiting == 0


def test_a_full_queue_says_when_to_come_again(strict: Served, gate: threading.Event):
    engine = strict.service.model(None).engine
    with ThreadPoolExecutor(5) as pool:
        taken = [pool.submit(ask, strict.port, "/v1/completions", body()) for _ in range(4)]
        assert eventually(lambda: strict.service._pending["tiny"] == 4)
        with OpenAI(base_url=strict.url, api_key="none", max_retries=0) as client:
            with pytest.raises(openai.RateLimitError) as refused:
                client.completions.create(**body())
            assert refused.value.response.headers["retry-after"] == "2"
            assert refused.value.type == "rate_limit_error"
            assert refused.value.code == "rate_limit_exceeded"
        assert ask(strict.port, "/healthz").status == 200
        gate.set()
        texts = {answer.result().body["choices"][0]["text"] for answer in taken}
    assert len(texts) == 1
    assert eventually(lambda: free(strict))
    assert strict.service._pending["tiny"] == 0
    assert ask(strict.port, "/v1/completions", body()).status == 200
    assert engine.waiting == 0
    too_many = ask(strict.port, "/v1/completions", body(n=4))
    assert (too_many.status, too_many.body["error"]["param"]) == (400, "n")


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_frees_the_slot(strict: Served, engine, stream: bool):
    before = metric(strict.port, "alpaca_jax_cancelled_total")
    engine.gate.clear()
    try:
        content = json.dumps(body(max_tokens=110, stream=stream, n=2)).encode()
        connection = raw(strict.port, content)
        assert eventually(lambda: strict.service._pending["tiny"] == 2)
        if stream:
            assert connection.recv(12) == b"HTTP/1.1 200"
        connection.close()
        assert eventually(lambda: strict.service._pending["tiny"] == 0)
    finally:
        engine.gate.set()
    assert eventually(lambda: free(strict))
    assert metric(strict.port, "alpaca_jax_cancelled_total") == before + 2


def test_a_client_that_closes_its_half_is_taken_for_gone(strict: Served, gate: threading.Event):
    connection = raw(strict.port, json.dumps(body(stream=True)).encode())
    with contextlib.closing(connection):
        assert eventually(lambda: strict.service._pending["tiny"] == 1)
        connection.shutdown(socket.SHUT_WR)
        assert eventually(lambda: strict.service._pending["tiny"] == 0)


def test_an_answer_that_takes_too_long_is_ended(model: ServedModel, gate: threading.Event, tmp_path: Path):
    service = Service([model], limits=Limits(timeout=0.2))
    with running(service, tmp_path) as server:
        late = ask(server.port, "/v1/completions", body())
        assert late.status == 504
        assert late.body["error"]["code"] == "timeout"
        stream = ask(server.port, "/v1/completions", body(stream=True))
        last = stream.body.strip().splitlines()[-1].removeprefix("data: ")
        assert json.loads(last)["error"]["code"] == "timeout"
        gate.set()
        assert eventually(lambda: free(server))


def test_long_bodies_are_refused_before_they_are_read(strict: Served):
    announced = ask(strict.port, "/v1/completions", body(prompt="x" * 30_000))
    assert (announced.status, announced.body["error"]["code"]) == (413, "request_too_large")
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    head += b"Content-Type: application/json\r\n\r\n"
    chunk = b"1000\r\n" + b"x" * 4096 + b"\r\n"
    with socket.create_connection(("127.0.0.1", strict.port), timeout=30) as connection:
        connection.sendall(head + chunk * 6)
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_bodies_that_creep_are_given_up(strict: Served):
    with contextlib.closing(raw(strict.port, b'{"prompt": ', length=1_000)) as connection:
        assert connection.recv(12) == b"HTTP/1.1 408"


def test_heads_that_creep_are_given_up(strict: Served):
    with socket.create_connection(("127.0.0.1", strict.port), timeout=30) as connection:
        start = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for byte in b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"x" * 1_000:
                connection.sendall(bytes([byte]))
                time.sleep(0.02)
        assert time.monotonic() - start < 10, "it was let go on"


def test_all_bodies_together_have_a_limit(model: ServedModel, tmp_path: Path):
    limits = Limits(body_seconds=20, buffered_bytes=30_000)
    with running(Service([model], limits=limits), tmp_path) as server:
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(contextlib.closing(raw(server.port, b"x" * 14_000, length=15_000)))
            assert eventually(lambda: ask(server.port, "/v1/completions", body(prompt="x" * 5_000)).status == 503)
        assert eventually(lambda: ask(server.port, "/v1/completions", body()).status == 200)


def test_hundreds_of_idle_and_broken_connections_harm_nobody(served: Served):
    """The same with ten thousand: tools/load_serve.py."""
    junk = [
        b"",
        b"GET / HTTP/1.1\r\nHost: loc",
        b"\x16\x03\x01\x02\x00",
        b"POST /v1/completions HTTP/1.1\r\n",
        b"\0" * 99,
    ]
    with contextlib.ExitStack() as stack:
        for number in range(300):
            connection = socket.create_connection(("127.0.0.1", served.port), timeout=30)
            stack.enter_context(contextlib.closing(connection))
            connection.sendall(junk[number % len(junk)])
        answers = [ask(served.port, "/v1/completions", body()) for _ in range(3)]
    assert [answer.status for answer in answers] == [200] * 3
    assert len({answer.body["choices"][0]["text"] for answer in answers}) == 1


def test_a_reader_who_does_not_read_holds_up_nobody(served: Served):
    with contextlib.closing(raw(served.port, json.dumps(body(max_tokens=100, stream=True, n=2)).encode())):
        assert ask(served.port, "/v1/completions", body()).status == 200
        assert eventually(lambda: free(served)), "the engine waits for a reader"


def test_an_engine_that_fails_says_so_to_all(model: ServedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with running(Service([model]), tmp_path) as server:

        def fail() -> bool:
            raise RuntimeError("out of memory, and a prompt quoted")

        monkeypatch.setattr(model.engine, "step", fail)
        failed = ask(server.port, "/v1/completions", body())
        assert failed.status == 500
        assert "quoted" not in str(failed.body)
        assert ask(server.port, "/healthz").status == 503
        assert ask(server.port, "/v1/completions", body()).status == 503
    monkeypatch.undo()
    while model.engine.step():
        pass


def test_a_page_that_is_looked_at_does_not_keep_the_server_from_ending(model: ServedModel, tmp_path: Path):
    with running(Service([model]), tmp_path) as server:
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        with contextlib.closing(connection):
            connection.sendall(b"GET /gradio_api/heartbeat/abc HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
            start = time.monotonic()
            server.stop()
            assert time.monotonic() - start < 10
