"""A scripted server votes: both orders, verdicts in all forms, failures, a budget, and kills at any moment."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alpaca_jax.evaluation.judge import _AS_TEXT, parse_verdict
from tests.evaluation.files import evaluated, lines_of, paired
from tests.openai_server import KEY, Reply, Request, Script, answer, serving
from tests.programs import run, the_one_line

pytestmark = pytest.mark.usefixtures("asked_quickly")


def shown(request: Request) -> tuple[str, str]:
    """The two answers in a request, in its order."""
    text = request.body["messages"][0]["content"]
    found = re.search(r"\[First answer\]\n(.*)\n\n\[Second answer\]\n(.*)\n\n\[End of", text, re.DOTALL)
    assert found
    return found[1], found[2]


def says(verdict: str) -> Reply:
    return answer(json.dumps({"reason": "It is so.", "verdict": verdict}))


def longer(request: Request) -> Reply:
    first, second = shown(request)
    return says("tie" if len(first) == len(second) else "first" if len(first) > len(second) else "second")


def judged(pairs: Path, script: Script, *more: str) -> tuple[dict, dict, list[Request]]:
    """What `judge` and then `report` say, and what the server was sent."""
    votes = pairs.with_name("votes.jsonl")
    with serving(script) as server:
        counts = evaluated(
            "judge", f"--pairs={pairs}", f"--out={votes}", "--model=j", f"--base_url={server.url}", *more
        )
        return counts, evaluated("report", f"--votes={votes}"), server.requests


def test_each_pair_is_judged_in_both_orders_and_the_figures_are_those_of_the_answers(tmp_path: Path):
    pairs = paired(tmp_path)
    counts, report, requests = judged(pairs, longer)
    ours, theirs = lines_of(tmp_path / "ours.jsonl"), lines_of(tmp_path / "theirs.jsonl")
    texts = [(one["output"].strip(), other["output"].strip()) for one, other in zip(ours, theirs, strict=True)]
    signs = [(len(one) > len(other)) - (len(one) < len(other)) for one, other in texts if one != other]
    assert (report["wins"], report["losses"], report["ties"]) == tuple(signs.count(sign) for sign in (1, -1, 0))
    assert report["win_rate"] == pytest.approx(50 + 50 * sum(signs) / len(signs))
    assert report["position"]["consistent"] == 100
    assert counts["pairs"] == 10
    assert sorted(shown(request) for request in requests) == sorted(
        both for pair in texts if pair[0] != pair[1] for both in (pair, pair[::-1])
    )
    schema = requests[0].body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["verdict"]["enum"] == ["first", "second", "tie"]
    assert not any(name in json.dumps([one.body for one in requests]) for name in ("Ours-7B", "Theirs-3"))
    assert all(KEY not in path.read_text() for path in tmp_path.iterdir())


def test_a_preference_for_the_first_answer_cancels_out_and_is_reported(tmp_path: Path):
    counts, report, _ = judged(paired(tmp_path), lambda request: says("first"))
    assert (report["wins"], report["losses"], report["ties"], report["win_rate"]) == (0, 0, 10, 50.0)
    assert counts["position"] == report["position"]
    assert (report["position"]["first"], report["position"]["consistent"]) == (100, 0)


def test_what_gives_no_verdict_is_counted_and_takes_its_pair_out_of_the_rates(tmp_path: Path):
    def script(request: Request) -> Reply:
        first, _ = shown(request)
        if "ours 1 " in first:
            return answer("I would rather not say.")
        if "ours 2 " in first:
            return answer("{", chat=False) if request.number % 2 else Reply({"error": "busy"}, status=500)
        return says("first" if "ours" in first else "second")

    counts, report, requests = judged(paired(tmp_path), script, "--attempts=3")
    assert (counts["null"], counts["null_verdicts"], counts["given_up"]) == (2, 2, 1)
    assert (report["null"], report["wins"], report["losses"]) == (2, 8, 0)
    assert counts["failed_attempts"] == 3  # all of the one that was given up
    assert len(requests) == 20 + 2
    nulls = [line for line in lines_of(tmp_path / "votes.jsonl") if line["vote"] is None]
    assert sorted(line["pair"] for line in nulls) == ["task 1", "task 2"]
    assert any("rather not say" in line["comment"] for line in nulls)


def test_a_server_without_schemas_is_asked_for_a_last_line(tmp_path: Path):
    def script(request: Request) -> Reply:
        if "response_format" in request.body:
            return Reply({"error": {"message": "response_format json_schema is not supported"}}, status=400)
        assert 'a last line "Verdict: first"' in request.body["messages"][0]["content"]
        first, _ = shown(request)
        return answer(f"Both are fine, the {'first' if 'theirs' in first else 'second'} is worse.\n\n"
                      f"**Verdict:** {'second' if 'theirs' in first else 'First'}")  # fmt: skip

    counts, report, _ = judged(paired(tmp_path), script, "--concurrency=1")
    assert (report["wins"], counts["null"], counts["requests"]) == (10, 0, 20)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ('{"reason": "The {first} one", "verdict": "second"}', "second"),
        ('```json\n{"verdict": "TIE", "reason": ""}\n```', "tie"),
        ('{"verdict": 1}', "first"),
        ('{"verdict": "unclear"} so: Verdict: first', "first"),
        ("Verdict: first\nOn reflection: Verdict: [[B]]", "second"),
        ("The verdict is: the second answer.", "second"),
        ("**Final verdict**: second. It is the only right one.", "second"),
        ("Reasons.\n\nAnswer 1", "first"),
        ("Verdict: a tie", "tie"),
        ("Verdict: A", "first"),
        ("I see no difference.\nIt's a tie.", "tie"),
        ("(tie)", "tie"),
        ("2", "second"),
        ("", None),
        # Small models repeat the request, whole or cut.
        (f"Well.\n{_AS_TEXT}\n{_AS_TEXT}", None),
        (_AS_TEXT[:-30], None),
        ("The answer is not the best. The first answer is better.", "first"),
        ("The answer that is better is the second one.", "second"),
        ("The first answer is better. No: the second answer is better.\nThe second answer is better.", None),
        ("It is not so that the first answer is better.", None),
        ("The first answer names three towns.", None),
        ("12", None),
        ('{"verdict": {"a": 1}}', None),
    ],
)
def test_verdicts_are_read_from_what_judges_say(text: str, verdict: str | None):
    assert parse_verdict(text) == verdict


def test_a_spent_budget_stops_and_a_larger_one_goes_on_without_asking_twice(tmp_path: Path):
    pairs, votes = paired(tmp_path), tmp_path / "votes.jsonl"
    prices = ("--price_in=1000", "--price_out=0", "--concurrency=1")  # 100 tokens of a prompt: 0.10 USD
    flags = [f"--pairs={pairs}", f"--out={votes}", "--model=j", *prices]
    with serving(longer) as server:
        flags.append(f"--base_url={server.url}")
        assert "--budget_usd=2.5" in the_one_line("evaluate", "judge", *flags, "--budget_usd=2.5")
        before = len(server.requests)
        assert 4 < before < 20
        partly = evaluated("report", f"--votes={votes}")  # what was paid for can be looked at
        assert partly["votes"] == before // 2
        counts = evaluated("judge", *flags, "--budget_usd=100")
        assert len(server.requests) == 20
    assert (counts["requests"], counts["cost_usd"]) == (20, pytest.approx(2.0))


def test_other_settings_or_other_pairs_are_not_mixed_in(tmp_path: Path):
    pairs = paired(tmp_path)
    judged(pairs, longer)
    flags = [f"--pairs={pairs}", f"--out={tmp_path}/votes.jsonl", "--base_url=http://127.0.0.1:9/v1"]
    assert "model = 'k', as now" in the_one_line("evaluate", "judge", *flags, "--model=k")
    for name in ("pairs.json", "pairs.key.json"):
        (tmp_path / name).unlink()
    paired(tmp_path, "--seed=1")
    assert "pairs_sha256" in the_one_line("evaluate", "judge", *flags, "--model=j")
    (tmp_path / "votes.requests.jsonl").unlink()
    assert "found a file alone" in the_one_line("evaluate", "judge", *flags, "--model=j")


def test_a_wrong_key_stops_at_once_and_leaves_no_votes(tmp_path: Path):
    pairs = paired(tmp_path)
    refusal = Reply({"error": {"message": f"no such key {KEY}", "code": "invalid_api_key"}}, status=401)
    with serving(lambda request: refusal) as server:
        flags = [f"--pairs={pairs}", f"--out={tmp_path}/v.jsonl", "--model=j", f"--base_url={server.url}"]
        line = the_one_line("evaluate", "judge", *flags, "--concurrency=1")
        assert len(server.requests) == 1
    assert "401: no such key [key]" in line
    assert not (tmp_path / "v.jsonl").exists()


def test_kills_at_any_moment_lose_no_verdict(tmp_path: Path):
    pairs, votes, generator = paired(tmp_path), tmp_path / "votes.jsonl", random.Random(0)

    def slowly(request: Request) -> Reply:
        return longer(request)._replace(delay=0.05)

    with serving(slowly) as server:
        flags = [f"--pairs={pairs}", f"--out={votes}", "--model=j", f"--base_url={server.url}", "--concurrency=2"]
        for _ in range(2):
            process = subprocess.Popen([sys.executable, "-m", "alpaca_jax.evaluate", "judge", *flags], stderr=-3)
            begun = len(server.requests)
            while len(server.requests) < begun + 3 and process.poll() is None:
                time.sleep(0.005)
            time.sleep(generator.random() / 20)
            process.send_signal(signal.SIGKILL)
            process.wait()
        counts = evaluated("judge", *flags)
        assert len(server.requests) <= 20 + 2 * 2  # those in flight at a kill are asked again
    assert counts["requests"] == 20
    answered = [line["key"] for line in lines_of(tmp_path / "votes.requests.jsonl") if line["kind"] == "answer"]
    assert len(answered) == len(set(answered)) == 20
    killed = votes.read_bytes()
    for name in ("votes.jsonl", "votes.requests.jsonl"):
        (tmp_path / name).unlink()
    with serving(longer) as server:
        code, _, err = run("evaluate", "judge", *flags[:3], f"--base_url={server.url}")
    assert code == 0, err
    assert [line | {"time": ""} for line in lines_of(votes)] == [
        json.loads(line) | {"time": ""} for line in killed.splitlines()
    ]
