"""Servers that fail, in each way: finished work stays, the spend is exact, and what ends the run is one line."""

import email.utils
import json
import socket
import time
from pathlib import Path

import pytest

from alpaca_jax.support.files import read_json_lines
from tests.programs import run, the_one_line
from tests.self_instruct.conftest import KEY
from tests.self_instruct.flags import flags, instructions, lines, made
from tests.self_instruct.server import Reply, Request, answer, serving, tasks_json
from tests.self_instruct.test_selfinstruct import unlike

GOOD = Reply(answer(tasks_json(unlike(1), unlike(2)), tokens=(1_000, 200)).body)


def numbered(request: Request) -> Reply:
    """Two new records in each answer."""
    return answer(tasks_json(unlike(2 * request.number), unlike(2 * request.number + 1)), tokens=(1_000, 200))


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
    with serving(numbered) as server:
        assert made(flags(seeds, server.url))["records"] == 6


@pytest.mark.parametrize("concurrency", [1, 4])
def test_the_budget_holds_to_the_last_digit(seeds: Path, concurrency: int):
    # An answer costs 0.0012; the most it may cost is what its prompt's bytes and max_tokens come to.
    prices = ("--price_in=1", "--price_out=1", "--max_tokens=500", f"--concurrency={concurrency}")
    with serving(numbered) as server:
        arguments = flags(seeds, server.url, *prices, num=100)
        code, _, err = run("selfinstruct", *arguments, "--budget_usd=0.02")
        line = err.splitlines()[-1]
        assert code == 2
        assert "--budget_usd=0.02: expected room for one more request" in line
        spent = len(server.requests)
        assert 8 <= spent <= 16
        assert f"${spent * 0.0012:.4f} spent" in line
        assert len(instructions(seeds)) == 2 * spent
        # The same budget again: nothing more is sent.
        assert run("selfinstruct", *arguments, "--budget_usd=0.02")[0] == 2
        assert len(server.requests) == spent
        report = made([*arguments, "--budget_usd=1"])
        assert report["cost_usd"] == pytest.approx(0.0012 * 50, abs=0.0012 * concurrency)
        assert report["cost_usd"] == report["requests"] * 12 / 10_000
        assert report["requests"] == len(server.requests)


def test_prices_come_from_the_table(seeds: Path):
    with serving(numbered) as server:
        code, out, err = run("selfinstruct", *flags(seeds, server.url, model="gpt-4o-mini", num=2))
        assert code == 0
        assert "records 2/2  $0.0003 so far, $0.0003 in all" in err
        assert "2 records from 1 requests, cost $0.0003" in out  # (1000·0.15 + 200·0.60)/10⁶
        for path in seeds.parent.glob("out.*"):
            path.unlink()
        table = seeds.with_name("prices.toml")
        table.write_text('[models]\n"m" = { in = "3", out = "7" }\n')
        assert made(flags(seeds, server.url, f"--prices={table}", num=2))["cost_usd"] == 0.0044
        assert "a price for other" in the_one_line(
            "selfinstruct", *flags(seeds, server.url, "--budget_usd=1", model="other")
        )
        table.write_text('[models]\n"m" = 3\n')
        assert "prices.toml: expected a table" in the_one_line(
            "selfinstruct", *flags(seeds, server.url, f"--prices={table}")
        )


def test_tokens_that_the_server_does_not_count_are_estimated(seeds: Path):
    with serving(lambda request: answer(tasks_json(unlike(1)), tokens=None)) as server:
        report = made(flags(seeds, server.url, num=1))
    asked = server.requests[0].body["messages"][0]["content"]
    assert report["unmeasured"] == 1
    assert report["prompt_tokens"] == -(-len(asked.encode()) // 4)
    assert report["answer_tokens"] == -(-len(tasks_json(unlike(1))) // 4)
    assert report["cost_usd"] is None


@pytest.mark.parametrize("limit", ["--requests_per_minute=2", "--tokens_per_minute=1800"])
def test_requests_and_tokens_a_minute_are_limited(seeds: Path, monkeypatch: pytest.MonkeyPatch, limit: str):
    import aiolimiter

    # A minute of a second: the third request has to wait for half of it, or for most of two.
    limiter = aiolimiter.AsyncLimiter
    monkeypatch.setattr(aiolimiter, "AsyncLimiter", lambda rate: limiter(rate, 1.0))
    with serving(numbered) as server:
        made(flags(seeds, server.url, limit, "--max_tokens=1000", "--concurrency=4", num=6))
    assert server.requests[2].time - server.requests[0].time > 0.3


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


def test_a_model_that_brings_nothing_does_not_cost_for_ever(seeds: Path):
    with serving(lambda request: answer("I would rather not.")) as server:
        code, _, err = run("selfinstruct", *flags(seeds, server.url))
    assert code == 2
    assert "20 requests one after another without one (rejected in all: unreadable 20)" in err
    assert 20 <= len(server.requests) <= 36


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "expected at least 3 tasks"),
        ("{", "seeds.jsonl, line 1: expected one JSON value"),
        ('{"instruction": "a"}\n', "line 1: expected a field `output`"),
        ('{"instruction": "a", "output": ""}\n', "line 1: expected an instruction with an output"),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}', "found a chat"),
        ('{"instruction": "a", "output": "b"}\n', "expected at least 3 tasks"),
    ],
)
def test_bad_seeds_are_one_line_before_anything(seeds: Path, content: str, words: str):
    seeds.write_text(content)
    assert words in the_one_line("selfinstruct", *flags(seeds, "http://127.0.0.1:1/v1"))
    assert list(seeds.parent.iterdir()) == [seeds]


def test_bad_flags_are_one_line_before_anything(seeds: Path, monkeypatch: pytest.MonkeyPatch):
    def line(*more: str, url: str = "http://127.0.0.1:1/v1", **changed: int) -> str:
        return the_one_line("selfinstruct", *flags(seeds, url, *more, **changed))

    assert "--num: expected more than 0" in line(num=0)
    assert "--near: expected above 0, at most 1" in line("--near=7")
    assert "--machine_tasks: expected from 0 to 3" in line("--machine_tasks=4")
    assert "--price_in: expected --price_out with it" in line("--price_in=1")
    assert "--judge_min: expected --judge" in line("--judge_min=3")
    assert "'much' is not an amount" in line("--budget_usd=much")
    assert "--base_url: expected an http or https address" in line(url="localhost:8000")
    assert "topics.txt" in line(f"--topics={seeds.with_name('topics.txt')}")
    assert ".jsonl" in the_one_line("selfinstruct", *flags(seeds, "http://x"), f"--out={seeds.with_name('a.json')}")
    seeds.write_text("".join(json.dumps({"instruction": f"a {n}", "output": "b"}) + "\n" for n in range(9)))
    assert "is_classification" in line("--mode=self_instruct")
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "OPENAI_API_KEY: expected the key" in the_one_line(
        "selfinstruct", *[flag for flag in flags(seeds, "") if "base_url" not in flag]
    )
    assert list(seeds.parent.iterdir()) == [seeds]


def test_the_log_has_what_was_asked(seeds: Path):
    with serving(numbered) as server:
        made(flags(seeds, server.url, "--concurrency=1", num=4))
    log = [line for _, line in read_json_lines(seeds.with_name("out.requests.jsonl"))]
    assert [line["kind"] for line in log] == ["settings", "sent", "answer", "sent", "answer"]
    assert log[1]["prompts"] == [server.requests[0].body["messages"][0]["content"]]
