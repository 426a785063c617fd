import dataclasses
import json
import multiprocessing
import os
import signal
import sqlite3
import stat
from pathlib import Path

import pytest

from alpaca_jax.serving.feedback import (
    LONGEST_DETAIL,
    LONGEST_TEXT,
    Answered,
    Feedback,
    FeedbackRefused,
    export_feedback,
)
from alpaca_jax.support.errors import UserError

ANSWERED = Answered("1", "tuned", "ab12", "Name a bird.", "", "A heron.\n“Héron” 🐦", "stop", {"temperature": 0.7})


def exported(path: Path) -> list[dict]:
    out = path.with_name("out.jsonl")
    count = export_feedback(path, out)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == count
    return rows


def test_votes_and_flags_come_back_with_all_they_are_about(tmp_path: Path):
    feedback = Feedback(tmp_path / "deep" / "feedback.sqlite")
    feedback.vote(ANSWERED, "up")
    feedback.flag(ANSWERED, "false", "Herons are not small. '; DROP TABLE feedback; --")
    feedback.vote(ANSWERED, "down")  # the visitor thinks again
    flag, vote = exported(feedback.path)
    fields = dataclasses.asdict(ANSWERED)
    for row in (flag, vote):
        assert {name: row["answer_id" if name == "id" else name] for name in fields} == fields
    assert (flag["kind"], flag["value"]) == ("flag", "false")
    assert flag["detail"].startswith("Herons are not small. ';")
    assert (vote["kind"], vote["value"], vote["detail"]) == ("vote", "down", "")
    assert flag["time"] <= vote["time"]
    assert stat.S_IMODE(feedback.path.stat().st_mode) == 0o600


def test_sizes_are_bounded(tmp_path: Path):
    feedback = Feedback(tmp_path / "feedback.sqlite")
    with pytest.raises(FeedbackRefused, match="at most 2,000 characters"):
        feedback.flag(ANSWERED, "other", "x" * (LONGEST_DETAIL + 1))
    with pytest.raises(FeedbackRefused, match="choose a reason"):
        feedback.flag(ANSWERED, "because")
    feedback.vote(dataclasses.replace(ANSWERED, answer="x" * (LONGEST_TEXT + 1)), "up")
    feedback.flag(dataclasses.replace(ANSWERED, instruction="half of \ud83d a pair"), "other")
    long, half = exported(feedback.path)
    assert len(long["answer"]) == LONGEST_TEXT
    assert half["instruction"] == "half of ? a pair"


def test_a_full_file_refuses_kindly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    feedback = Feedback(tmp_path / "feedback.sqlite")
    monkeypatch.setattr("alpaca_jax.serving.feedback._PAGES", 1)
    with pytest.raises(FeedbackRefused, match="may be full"):
        feedback.vote(dataclasses.replace(ANSWERED, answer="x" * 20_000), "up")
    assert exported(feedback.path) == []


def write_many(path: Path, writer: int) -> None:
    feedback = Feedback(path)
    for number in range(25):
        feedback.vote(dataclasses.replace(ANSWERED, id=f"{writer}-{number}"), "up")


def write_and_die(path: Path) -> None:
    feedback = Feedback(path)
    feedback.vote(ANSWERED, "up")
    with feedback._transaction() as connection:
        connection.execute("DELETE FROM feedback")
        os.kill(os.getpid(), signal.SIGKILL)


def test_writers_at_once_and_a_killed_one(tmp_path: Path):
    path = tmp_path / "feedback.sqlite"
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=write_many, args=(path, writer)) for writer in range(3)]
    writers.append(spawn.Process(target=write_and_die, args=(path,)))
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    assert [process.exitcode for process in writers] == [0, 0, 0, -signal.SIGKILL]
    # What was committed is there, what was not has not happened.
    assert {row["answer_id"] for row in exported(path)} == {
        "1",
        *(f"{writer}-{number}" for writer in range(3) for number in range(25)),
    }


def test_another_file_is_refused_and_left_as_it_is(tmp_path: Path):
    text, short, other = tmp_path / "notes.txt", tmp_path / "short.txt", tmp_path / "other.sqlite"
    short.write_text("x")  # SQLite would make a database of it
    text.write_text("Dear diary, this is not a database, and a good deal longer than a header.\n" * 9)
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE mine (x)")
    connection.close()
    before = [path.read_bytes() for path in (text, short, other)]
    for path in (text, short, other):
        with pytest.raises(UserError, match="expected a file of flags and votes"):
            Feedback(path)
        with pytest.raises(UserError, match="expected a file of flags and votes"):
            export_feedback(path, tmp_path / "out.jsonl")
    with pytest.raises(UserError, match="found none"):
        export_feedback(tmp_path / "absent", tmp_path / "out.jsonl")
    assert [path.read_bytes() for path in (text, short, other)] == before
    assert not (tmp_path / "out.jsonl").exists()
