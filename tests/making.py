"""How tests run `selfinstruct`, by which what lies in `remote` is tried too, and what it leaves."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.openai_server import Reply, Request, answer, tasks_json
from tests.programs import run

NOUNS = "amber basil cedar delta ember fjord grove haven ivory jetty karst ledge maple north ocean".split()  # noqa: SIM905


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    """Ten seed tasks, every other one a classification."""
    path = tmp_path / "seeds.jsonl"
    tasks = [
        {
            "id": f"seed {number}",
            "instruction": f"Task {number} of the seeds, about {'abcdefghij'[number] * 3}:",
            "instances": [{"input": "" if number % 3 else f"input {number}", "output": f"output {number}"}],
            "is_classification": bool(number % 2),
        }
        for number in range(10)
    ]
    path.write_text("".join(json.dumps(task) + "\n" for task in tasks))
    return path


def unlike(number: int) -> str:
    """Instructions that are unlike each other, by number."""
    return (
        f"Tell {NOUNS[number % 15]} apart from {NOUNS[number // 15 % 15]}x thing{number} word{number} {number}{number}"
    )


def numbered(request: Request) -> Reply:
    """Two new records in each answer."""
    return answer(tasks_json(unlike(2 * request.number), unlike(2 * request.number + 1)), tokens=(1_000, 200))


def flags(seeds: Path, url: str, *more: str, num: int = 6, model: str = "m") -> list[str]:
    out = seeds.with_name("out.jsonl")
    return [f"--seeds={seeds}", f"--out={out}", f"--num={num}", f"--model={model}", f"--base_url={url}", *more]


def made(arguments: list[str]) -> dict[str, Any]:
    """The report of a run that succeeds."""
    code, out, err = run("selfinstruct", *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def lines(seeds: Path, kind: str = "") -> list[dict[str, Any]]:
    path = seeds.with_name(f"out.{kind}.jsonl" if kind else "out.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def instructions(seeds: Path) -> list[str]:
    return [record["instruction"] for record in lines(seeds)]
