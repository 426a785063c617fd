"""Killed at any moment: nothing that was paid for is asked again, no record is lost or doubled."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.making import flags, lines, made, unlike
from tests.openai_server import Reply, Request, answer, serving, tasks_json
from tests.programs import run

pytestmark = pytest.mark.usefixtures("asked_quickly")

KILLS = 20


def by_prompt(request: Request) -> Reply:
    """The same answer to the same request, soon."""
    generator = random.Random(json.dumps(request.body))
    if request.body["model"] == "j":
        return answer('{"score": 7}', tokens=(10, 1))._replace(delay=0.002)
    numbers = [generator.randrange(10**6) for _ in range(3)]
    return answer(tasks_json(*map(unlike, numbers)), tokens=(100, 30))._replace(delay=generator.random() / 50)


@pytest.fixture(scope="module")
def context():
    """Processes that are forked from one with everything imported, and so begin at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.self_instruct.warm"])
    return context


def test_twenty_kills_lose_and_double_nothing(seeds: Path, context):
    prices = seeds.with_name("prices.toml")
    prices.write_text('[models]\nm = { in = "1", out = "1" }\nj = { in = "1", out = "1" }\n')
    more = ("--judge=j", "--machine_tasks=1", "--concurrency=3", f"--prices={prices}", "--seed=5")
    generator = random.Random(0)
    torn = 0
    with serving(by_prompt) as server:
        arguments = flags(seeds, server.url, *more, num=100_000)
        for turn in range(KILLS):
            process = context.Process(target=run, args=("selfinstruct", *arguments))
            answers = len(server.requests)
            process.start()
            while len(server.requests) == answers and process.is_alive():
                time.sleep(0.002)
            time.sleep(generator.random() * 0.15)
            process.kill()
            process.join(30)
            assert process.exitcode == -9
            log = seeds.with_name("out.requests.jsonl")
            if turn % 4 == 0:  # as a loss of power may leave them
                for path in (log, seeds.with_name("out.jsonl"), seeds.with_name("out.provenance.jsonl")):
                    whole = path.read_bytes()
                    path.write_bytes(whole[: len(whole) - generator.randrange(1, 9)])
                    torn += 1
        written = len(lines(seeds))
        arguments[2] = f"--num={written + 20}"
        report = made(arguments)
    assert torn == 15
    assert report["records"] == written + 20
    entries = lines(seeds, "requests")
    paid = [entry["key"] for entry in entries if entry["kind"] == "answer"]
    assert len(paid) == len(set(paid)) == report["requests"]
    assert report["cost_usd"] == pytest.approx(
        sum(entry["prompt_tokens"] + entry["answer_tokens"] for entry in entries if entry["kind"] == "answer") / 1e6
    )
    # What was sent twice had no answer in the log, because of a kill.
    first = [entry["key"] for entry in entries if entry["kind"] == "sent"]
    assert len(first) - len(paid) <= KILLS * 3 + torn
    assert report["lost"] <= 3 + 1

    # The same, in one go.
    killed = [lines(seeds), [one | {"time": ""} for one in lines(seeds, "provenance")]]
    for path in seeds.parent.glob("out.*"):
        path.unlink()
    with serving(by_prompt) as server:
        made(flags(seeds, server.url, *more, num=written + 20))
    assert killed == [lines(seeds), [one | {"time": ""} for one in lines(seeds, "provenance")]]


def test_ctrl_c_ends_at_once_and_blames_nobody(seeds: Path, context):
    with serving(lambda request: by_prompt(request)._replace(delay=0.1 if request.number < 4 else 20)) as server:
        process = context.Process(
            target=run, args=("selfinstruct", *flags(seeds, server.url, "--concurrency=4", num=99))
        )
        process.start()
        while len(server.requests) < 8:
            time.sleep(0.01)
        begun = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        process.join(30)
        assert time.monotonic() - begun < 5
        assert process.exitcode == 0  # of the function that caught the program's 130
    kinds = [entry["kind"] for entry in lines(seeds, "requests")]
    assert sorted(kinds) == ["answer"] * 4 + ["sent"] * 8 + ["settings"]
    assert len(lines(seeds)) <= 12  # fewer where an answer was quick whose turn had not come
    with serving(by_prompt) as server:
        report = made(flags(seeds, server.url, "--concurrency=4", num=24))
    assert report["lost"] == 4


def test_other_settings_other_records_and_other_files_are_refused(seeds: Path):
    out = seeds.with_name("out.jsonl")
    with serving(by_prompt) as server:
        arguments = flags(seeds, server.url, num=3)
        out.write_text("mine\n")
        code, _, err = run("selfinstruct", *arguments)
        assert (code, out.read_text()) == (2, "mine\n")
        assert "expected a file that does not exist" in err
        assert not server.requests
        out.unlink()
        made(arguments)
        sent = len(server.requests)
        for more in ("--temperature=0.5", "--near=0.8", "--judge=j", "--model=n"):
            code, _, err = run("selfinstruct", *arguments, more)
            assert code == 2
            assert f"{more[2:].split('=')[0]} =" in err
        text = out.read_text()
        out.write_text(text.replace("Tell", "Say", 1))
        code, _, err = run("selfinstruct", *arguments)
        assert "out.jsonl, line 1: expected the record that the log of requests gives" in err
        assert out.read_text().startswith('{"instruction": "Say')
        out.unlink()
        made(arguments)
        assert out.read_text() == text
        assert len(server.requests) == sent
