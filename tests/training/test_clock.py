"""Each moment counts to one part, and goodput is the share of the updates."""

import contextlib

import pytest

from alpaca_jax.training import clock
from alpaca_jax.training.clock import PARTS, Clock, in_words


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A time that only passes when a test says so."""
    time = [100.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: time[0])
    return time


def test_every_second_counts_once(now: list[float]):
    ticking = Clock()
    now[0] += 1  # start
    with ticking.part("updates"):
        now[0] += 10
        with ticking.part("evaluation"):
            now[0] += 2
            with ticking.part("compilation"):
                now[0] += 3
            now[0] += 4
        now[0] += 20
        ticking.set_apart(5, "input")
        with contextlib.suppress(KeyError), ticking.part("saves"):
            now[0] += 6
            raise KeyError
        now[0] += 9
    expected = {"start": 1, "updates": 34, "evaluation": 6, "compilation": 3, "input": 5, "saves": 6}
    assert ticking.seconds() == dict.fromkeys(PARTS, 0.0) | expected
    assert ticking.goodput() == 34 / 55
    now[0] += 55
    assert ticking.goodput() == 34 / 110


def test_the_line_has_the_largest_first_and_nothing_tiny():
    line = in_words({"start": 9.0, "updates": 90.0, "saves": 0.9, "input": 0.1})
    assert line == "where the 100 s went: updates 90%, start 9% (goodput 90%)"
