"""What the contestants of `tools/bench_train.py` have in common: each is a process that is told which updates to make.

A worker takes one argument, a JSON file that describes its job, and then a line of JSON on standard input for each
turn, `[first update, how many]`. It answers with a line each: that it is ready, then the seconds, losses and peak
memory of each turn. It runs in the environment of the package that it measures, so nothing here imports the project.

U updates, B packed rows of an update, L positions of a row, n tokens of an example.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

IGNORED = -100  # the label that transformers' losses leave out


class Contestant(Protocol):
    """Whoever trains.

    Attributes:
      facts: what the report should say of it, such as versions.
    """

    facts: dict[str, Any]

    def update(self, number: int) -> float:
        """Makes update `number` to its end; its loss in nats a trained token, before the update."""

    def peak_bytes(self) -> int | None:
        """The most memory of the accelerator so far; None on a CPU."""


def run_worker(start: Callable[[dict[str, Any]], Contestant]) -> None:
    """Starts a contestant with the job of the first argument and makes its turns until standard input ends."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not come between the answers

    def answer(values: dict[str, Any]) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    contestant = start(job)
    answer({"facts": contestant.facts})
    for line in sys.stdin:
        first, count = json.loads(line)
        seconds, losses = [], []
        _forget_peak()
        for number in range(first, first + count):
            began = time.perf_counter()
            losses.append(contestant.update(number))
            seconds.append(time.perf_counter() - began)
        answer({"seconds": seconds, "losses": losses, "peak_bytes": contestant.peak_bytes() or _resident_peak()})


def _forget_peak() -> None:
    """Loading and compiling may take more memory than training, which alone is asked for. Only Linux can forget."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _resident_peak() -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def read_rows(path: str) -> dict[str, np.ndarray]:
    """The five arrays of all updates' packed rows, [U, B, L] each."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def examples_of(rows: dict[str, np.ndarray], update: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The examples that lie in the rows of an update, shuffled: tokens [n] and, for transformers, labels [n].

    In a packed row the last token of an example is only a target, and the first is never one.
    """
    found = []
    for row in range(rows["tokens"].shape[1]):
        tokens, targets, mask, segments = (
            rows[name][update, row] for name in ("tokens", "targets", "loss_mask", "segment_ids")
        )
        for segment in range(1, segments.max(initial=0) + 1):
            at = segments == segment
            ids = np.concatenate([tokens[at], targets[at][-1:]])
            labels = np.concatenate([[IGNORED], np.where(mask[at], targets[at], IGNORED)])
            found.append((ids.astype(np.int64), labels.astype(np.int64)))
    np.random.default_rng(update).shuffle(order := np.arange(len(found)))
    return [found[number] for number in order]


def padded(examples: list[tuple[np.ndarray, np.ndarray]], length: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, labels and attention mask, [examples, longest or `length`] each, padded on the right."""
    longest = max(length, *(len(ids) for ids, _ in examples))
    tokens = np.zeros((len(examples), longest), np.int64)
    labels = np.full_like(tokens, IGNORED)
    seen = np.zeros_like(tokens)
    for row, (ids, wanted) in enumerate(examples):
        tokens[row, : len(ids)], labels[row, : len(ids)], seen[row, : len(ids)] = ids, wanted, 1
    return tokens, labels, seen
