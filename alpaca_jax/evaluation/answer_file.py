"""The file of answers, and how they were made beside it.

OUT.jsonl has a line for each question, in order: `id, category, instruction, input, output, generator` and, where it is
known, `finish` (`stop`, `length`, or `given_up` with an empty output). OUT.run.json beside it says how they were made;
a run that was stopped goes on only with the same. Until all are there, the lines are in the order in which the answers
came.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alpaca_jax.evaluation.questions import Question
from alpaca_jax.support.continued import beside, check_name, check_output, check_settings
from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import explain_os_errors, parse_json, read_json, write_json_atomic
from alpaca_jax.support.hashing import sha256_file

_RUN = "run.json"


def begin(out: Path, settings: dict[str, Any], questions: Path) -> None:
    """Writes how the answers are made, or holds that of an earlier run against it.

    Raises:
      UserError: the answers were begun with something else, or are not ours.
    """
    from alpaca_jax import __version__

    check_name(out)
    with explain_os_errors(questions):
        settings |= {"instructions": str(questions), "instructions_sha256": sha256_file(questions)}
    path = beside(out, _RUN)
    if not (path.exists() and out.exists()):  # a run without an answer has begun nothing
        check_output(out, path)
        write_json_atomic(path, settings | {"alpaca_jax": __version__})
        return
    known = read_json(path)
    check_settings(path, identity(settings), identity(known if isinstance(known, dict) else {}))


def identity(settings: dict[str, Any]) -> dict[str, Any]:
    """What decides the answers: not where files lie, whose hashes count, nor which version of ours began."""
    places = {"instructions", "checkpoint", "outputs", "alpaca_jax"}
    return {field: value for field, value in settings.items() if field not in places}


def settings_of(out: Path) -> dict[str, Any]:
    """How the answers in a file are made, as `begin` wrote it."""
    return identity(read_json(beside(out, _RUN)))


def lines_there(out: Path, questions: Sequence[Question]) -> dict[str, bytes]:
    """The lines of a file of answers, by the question's id; a last line that a kill tore is cut off.

    Raises:
      UserError: a line that is no answer to one of the questions, or a second one to the same.
    """
    if not out.exists():
        return {}
    with explain_os_errors(out), open(out, "r+b") as file:
        lines = file.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            file.truncate(sum(map(len, lines[:-1])))
            lines.pop()
    names, found = {question.id for question in questions}, dict[str, bytes]()
    for number, line in enumerate(lines, start=1):
        try:
            name = parse_json(line.decode())["id"]
            if name not in names or name in found:
                raise ValueError(f"the id {name!r}")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{out}, line {number}",
                expected="the answer to a question that has none yet",
                found=shorten(str(error)),
                remedy="restore the file, or choose another --out",
            ) from error
        found[name] = line
    return found


def answer_line(question: Question, output: str, model: str, finish: str | None = None) -> bytes:
    """A line of the file."""
    fields = {
        "id": question.id,
        "category": question.category,
        "instruction": question.instruction,
        "input": question.input,
        "output": output,
        "generator": model,
    }
    if finish:
        fields["finish"] = finish
    return (json.dumps(fields, ensure_ascii=False) + "\n").encode()
