"""Answer files, pairs and votes for the tests, in the shapes in which they come."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.programs import run

QUESTIONS = [
    {
        "id": f"task {n}",
        "category": "letters" if n % 3 else "sums",
        "instruction": f"Say {n}.",
        "input": "twice" * (n % 2),
    }
    for n in range(12)
]
# Two questions get the same answer from both, but for the white space around it.
OURS = ["same " if n in (4, 7) else f"ours {n} " + "word " * (n % 5) for n in range(12)]
THEIRS = ["\nsame" if n in (4, 7) else f"theirs {n} " + "word " * (n % 3) for n in range(12)]


def write_lines(path: Path, values: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answers(path: Path, texts: Iterable[str], model: str, questions: Iterable[dict] = QUESTIONS) -> Path:
    pairs = zip(questions, texts, strict=True)
    return write_lines(path, [question | {"output": text, "generator": model} for question, text in pairs])


def paired(folder: Path, *more: str) -> Path:
    """The pair file of both."""
    out = folder / "pairs.json"
    ours, theirs = answers(folder / "ours.jsonl", OURS, "Ours-7B"), answers(folder / "theirs.jsonl", THEIRS, "Theirs-3")
    arguments = [f"--answers={ours}", f"--baseline={theirs}", f"--out={out}", *more]
    assert evaluated("pair", *arguments)["identical"] == 2
    return out


def evaluated(command: str, *arguments: str) -> dict[str, Any]:
    """The JSON of a command that succeeds."""
    code, out, err = run("evaluate", command, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def vote(pairs: Path, pair: str, annotator: str, winner: str | None, left: str | None = "a") -> dict[str, Any]:
    """A vote for `model`, `baseline`, `tie`, or None."""
    key = json.loads(pairs.with_name("pairs.key.json").read_text())
    letters = {key["a"].get(pair): "a", "tie": "tie", None: None}
    sha256 = json.loads(pairs.read_text())["sha256"]
    line = {"pair": pair, "annotator": annotator, "vote": letters.get(winner, "b"), "left": left}
    return line | {"pairs": "pairs.json", "pairs_sha256": sha256}
