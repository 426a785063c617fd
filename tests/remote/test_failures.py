"""Servers that fail, in each way: finished work stays, the spend is exact, and what ends the run is one line."""

import email.utils
import socket
import time
from pathlib import Path

import pytest

from tests.making import flags, instructions, lines, made, numbered, unlike
from tests.openai_server import KEY, Reply, Request, answer, serving
from tests.programs import run

pytestmark = pytest.mark.usefixtures("asked_quickly")


def refusing(status: int, message: str, code: str | None = None, **headers: str) -> Reply:
    return Reply({"error": {"message": message, "code": code}}, status, headers)


# Faults, and what the log says of each.
FAULTS = [
    (refusing(429, "slow down", **{"Retry-After": "0.3"}), "429: slow down"),
    (refusing(500, "oh"), "500: oh"),
    (refusing(503, "busy"), "503: busy"),
    (Reply(b"<html>bad gateway</html>", 502, {"Content-Type": "text/html"}), "502: <html>bad gateway</html>"),
    (Reply({}, delay=1.2), "no answer within 0.6 s"),
    (Reply(status=0), "no connection"),
    (Reply(b'{"choices": [{"mess'), "a malformed answer (JSONDecodeError"),
    (Reply(b"<html>", 200, {"Content-Type": "text/html"}), "a malformed answer (JSONDecodeError"),
    (Reply({"choices": []}), "a malformed answer (0 answers to 1 prompts)"),
    (Reply([1]), "a malformed answer (TypeError"),
    (Reply({"choices": [{"message": {"content": [1]}}]}), "a malformed answer (1 answers"),
    (
        Reply({"choices": [{"message": {"content": "a"}, "finish_reason": {"type": "stop"}}]}),
        "a malformed answer (a `finish_reason` that is no text",
    ),
]


def test_each_failure_is_tried_again_and_logged(seeds: Path):
    faults = [reply for reply, _ in FAULTS]
    with serving(
        lambda request: faults[request.number] if request.number < len(faults) else numbered(request)
    ) as server:
        report = made(flags(seeds, server.url, "--attempts=20", "--timeout=0.6", "--concurrency=1", num=2))
    assert report["failed_attempts"] == len(faults)
    assert (report["records"], report["requests"], report["given_up"]) == (2, 1, 0)
    assert (report["prompt_tokens"], report["answer_tokens"]) == (1_000, 200)
    reasons = [line["reason"] for line in lines(seeds, "requests") if line["kind"] == "failure"]
    for reason, (_, expected) in zip(reasons, FAULTS, strict=True):
        assert reason.startswith(expected)
    # The server asked for 0.3 s, where the first wait would have been 0.01.
    assert server.requests[1].time - server.requests[0].time >= 0.3


def test_a_date_is_waited_for(seeds: Path):
    def script(request: Request) -> Reply:
        until = email.utils.formatdate(time.time() + 2, usegmt=True)
        return refusing(429, "later", **{"Retry-After": until}) if request.number == 0 else numbered(request)

    with serving(script) as server:
        made(flags(seeds, server.url, "--concurrency=1", num=2))
    assert server.requests[1].time - server.requests[0].time > 0.9


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (
            refusing(401, f"Incorrect API key provided: {KEY}.", "invalid_api_key"),
            ["401: Incorrect", "[key]", "OPENAI"],
        ),
        (refusing(403, "not in your country"), ["403: not in your country", "what the key may do"]),
        (refusing(404, "no such model"), ["404: no such model", "--model"]),
        (refusing(400, "context too long"), ["400: context too long"]),
        (
            refusing(429, "come tomorrow", **{"Retry-After": "86400"}),
            ["429: come tomorrow", "wait 86400 s", "after that"],
        ),
        (refusing(429, "no money", "insufficient_quota"), ["429: no money (insufficient_quota)", "credit"]),
    ],
)
def test_what_cannot_be_mended_by_waiting_ends_at_once_and_is_gone_on_from(seeds: Path, reply: Reply, words: list[str]):
    refused = True

    def script(request: Request) -> Reply:
        return reply if refused and request.number >= 2 else numbered(request)._replace(delay=0.05)

    with serving(script) as server:
        arguments = flags(seeds, server.url, "--concurrency=2", "--price_in=1", "--price_out=1", num=12)
        code, out, err = run("selfinstruct", *arguments)
        line = err.splitlines()[-1]
        assert (code, out) == (2, "")
        assert line.startswith("error: http://127.0.0.1")
        assert all(word in line for word in words)
        assert len(server.requests) <= 4
        refused = False
        assert KEY not in err
        report = made(arguments)
    assert report["records"] == 12
    assert report["requests"] == 6
    assert report["cost_usd"] == 6 * 0.0012
    assert len(set(instructions(seeds))) == 12
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    for path in seeds.parent.glob("out*"):
        assert KEY not in path.read_text()


def test_requests_under_way_when_another_is_refused_are_kept(seeds: Path):
    def script(request: Request) -> Reply:
        slow = numbered(request)._replace(delay=0.4)
        return refusing(401, "no")._replace(delay=0.1) if request.number == 1 else slow

    with serving(script) as server:
        code, _, _ = run("selfinstruct", *flags(seeds, server.url, "--concurrency=3", num=60))
        assert code == 2
        assert len(server.requests) == 3
    answered = [line["key"] for line in lines(seeds, "requests") if line["kind"] == "answer"]
    assert len(answered) == 2


def test_one_request_that_always_fails_is_given_up_and_the_others_count(seeds: Path):
    first = list[str]()

    def script(request: Request) -> Reply:
        text = request.body["messages"][0]["content"]
        first.extend([text] if not first else [])
        return refusing(500, "poison")._replace(delay=0.1) if text == first[0] else numbered(request)

    with serving(script) as server:
        arguments = flags(seeds, server.url, "--concurrency=3", "--attempts=4", num=24)
        report = made(arguments)
        assert (report["records"], report["given_up"], report["failed_attempts"]) == (24, 1, 4)
        sent = len(server.requests)
        assert made(arguments)["given_up"] == 1
        assert len(server.requests) == sent


def test_a_server_that_does_not_answer_is_one_line(seeds: Path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        code, out, err = run("selfinstruct", *flags(seeds, url, "--attempts=3"))
    assert (code, out) == (2, "")
    assert "no connection (" in err
    assert "Connect call failed" in err
    assert "run the same command again" in err.splitlines()[-1]
    assert instructions(seeds) == []
    assert "trying again" in err
    assert "trying again" not in run("selfinstruct", *flags(seeds, url, "--attempts=1"))[2]
    with serving(numbered) as server:
        assert made(flags(seeds, server.url))["records"] == 6


def test_parameters_that_a_server_does_not_take_are_left_out(seeds: Path):
    refused = ("response_format", "max_tokens", "stop", "temperature")

    def script(request: Request) -> Reply:
        for name in refused:
            if name in request.body:
                other = " Use 'max_completion_tokens'." if name == "max_tokens" else ""
                return refusing(400, f"Unsupported parameter: '{name}'.{other}")
        text = f"4. Instruction: {unlike(request.number)}\n4. Input:\n<noinput>\n4. Output:\nyes"
        return answer(text)

    with serving(script) as server:
        code, _, err = run("selfinstruct", *flags(seeds, server.url, "--concurrency=3", num=9))
    assert code == 0, err
    assert [err.count(f"refuses {name}:") for name in refused] == [1, 1, 1, 1]
    assert set(server.requests[-1].body) == {"model", "messages", "max_completion_tokens"}
    assert len(server.requests) <= 9 + 3 * 4
