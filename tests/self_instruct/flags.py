"""How the tests call the program, and what it leaves."""

import json
from pathlib import Path
from typing import Any

from tests.programs import run


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
