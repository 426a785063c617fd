"""What `selfinstruct` refuses, in one line and before anything is made; and a model that has nothing to say."""

import json
from pathlib import Path

import pytest

from tests.making import flags
from tests.openai_server import answer, serving
from tests.programs import run, the_one_line

pytestmark = pytest.mark.usefixtures("asked_quickly")


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
