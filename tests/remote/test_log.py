"""The log of requests: what it holds, torn anywhere, and logs that are another's."""

from pathlib import Path

import pytest

from alpaca_jax.remote.log import Answer, Choice, RequestLog
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import read_json_lines
from tests.making import flags, made, numbered
from tests.openai_server import serving


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    log = RequestLog(path, {"window": 4, "a": 1})
    log.append("sent", key="0", model="m", prompts=["p"], time="t")
    log.answered(Answer("0", "hash", "json", (Choice("text\u2028", "stop"),), "m", "id", 1, 2, True, "t"))
    log.failed("1", "500: oh")
    log.give_up("1")
    log.append("sent", key="2", model="m", prompts=["p"], time="t")
    log.close()
    return path


def test_a_log_torn_anywhere_gives_its_whole_lines(log_path: Path):
    whole = log_path.read_bytes()
    complete = RequestLog(log_path, {"window": 9, "a": 1})
    assert (complete.failures, complete.given_up, complete.lost) == (1, {"1"}, 1)
    assert complete.settings["window"] == 4
    answers = complete.answers
    complete.close()
    assert [answer.choices for answer in answers.values()] == [(("text\u2028", "stop"),)]
    for size in [
        *range(0, len(whole), 9),
        *(at + shift for at, byte in enumerate(whole) if byte == 10 for shift in (0, 1)),
    ]:
        log_path.write_bytes(whole[:size])
        log = RequestLog(log_path, {"window": 4, "a": 1})
        kept = log_path.read_bytes()
        assert log.answers == (answers if b'"answer"' in kept else {})
        assert whole[:size].startswith(kept) or size < whole.index(b"\n") + 1
        assert kept.endswith(b"\n")
        log.append("sent", key="3")
        log.close()
        assert log_path.read_bytes() == kept + b'{"kind": "sent", "key": "3"}\n'


def test_a_log_without_an_answer_is_begun_anew(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    log = RequestLog(path, {"model": "misspelt"})
    log.append("sent", key="0", model="misspelt", prompts=["p"], time="t")
    log.failed("0", "404: no such model")
    log.close()
    log = RequestLog(path, {"model": "m"})
    assert (log.settings, log.failures) == ({"model": "m"}, 0)
    log.append("sent", key="0", model="m", prompts=["p"], time="t")
    log.close()
    with pytest.raises(UserError, match="expected model = 'n', as now"):  # that one may have been charged
        RequestLog(path, {"model": "n"})


def test_logs_that_are_not_ours_are_refused(log_path: Path):
    with pytest.raises(UserError, match=r"expected a = 2, as now; found 1, with which it was begun"):
        RequestLog(log_path, {"window": 4, "a": 2})
    log = RequestLog(log_path, {"window": 4, "a": 1})
    with pytest.raises(UserError, match="another that is writing it"):
        RequestLog(log_path, {"window": 4, "a": 1})
    log.close()
    content = log_path.read_bytes().splitlines(keepends=True)
    log_path.write_bytes(b"".join([*content[:2], b'{"kind": "answer", "key": 1}\n', *content[2:]]))
    with pytest.raises(UserError, match=r"log.jsonl, line 3: expected a line of the log"):
        RequestLog(log_path, {"window": 4, "a": 1})
    assert log_path.read_text().count("\n") == len(content) + 1


@pytest.mark.usefixtures("asked_quickly")
def test_the_log_has_what_was_asked(seeds: Path):
    with serving(numbered) as server:
        made(flags(seeds, server.url, "--concurrency=1", num=4))
    log = [line for _, line in read_json_lines(seeds.with_name("out.requests.jsonl"))]
    assert [line["kind"] for line in log] == ["settings", "sent", "answer", "sent", "answer"]
    assert log[1]["prompts"] == [server.requests[0].body["messages"][0]["content"]]
