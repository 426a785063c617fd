"""The processes of `tools/bench_train.py` and their turns: only one of them computes at a time."""

import contextlib
import dataclasses
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alpaca_jax.support.progress import console

ROOT = Path(__file__).parents[1]
_SECONDS_TO_END = 30.0


@dataclasses.dataclass
class Entrant:
    """A contestant and what became of it.

    Attributes:
      name: what the report calls it.
      dtype: of its arithmetic.
      worker: the module of `tools` that is it.
      python: the interpreter of its environment; empty where none was given.
      job: what its worker is told, besides what all are told.
      absent: why it has no figures, if it has none.
      facts: what its worker says of itself.
      first_seconds: from its start to the end of its first update.
      losses: of all updates, in nats a trained token.
      turns: the seconds of the updates of each turn.
      peak_bytes: its most memory in its turns, resident; of an accelerator, its most since it began.
    """

    name: str
    dtype: str
    worker: str
    python: str
    job: dict[str, Any] = dataclasses.field(default_factory=dict)
    absent: str = ""
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    first_seconds: float = 0.0
    losses: list[float] = dataclasses.field(default_factory=list)
    turns: list[list[float]] = dataclasses.field(default_factory=list)
    peak_bytes: int = 0


class Lost(Exception):
    """A worker ended before its work was done; the message is its last word."""


class Worker:
    """An entrant's process, started and ready."""

    def __init__(self, entrant: Entrant, common: dict[str, Any], scratch: Path, environment: dict[str, str]):
        """Starts it and waits until it is ready; raises `Lost` where it ends instead."""
        folder = scratch / f"{entrant.name} {entrant.dtype}".replace(" ", "_")
        folder.mkdir()
        job = folder / "job.json"
        job.write_text(json.dumps(common | entrant.job | {"dtype": entrant.dtype, "scratch": str(folder)}))
        self._entrant, self._log = entrant, folder / "log"
        self._began = time.perf_counter()
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(
                [entrant.python, "-m", f"tools.{entrant.worker}", str(job)],
                cwd=ROOT,
                env=environment | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            entrant.facts = self._answer()["facts"]
        except BaseException:
            self.close()
            raise

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            said = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
            raise Lost(said[-1].strip()[:200] if said else f"ended with code {self._process.returncode}")
        return json.loads(line)

    def turn(self, first: int, count: int) -> list[float]:
        """Has it make updates `first` to `first + count − 1`; their seconds. The rest is noted in the entrant."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([first, count]) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its last word tells why
        answer = self._answer()
        self._entrant.losses += answer["losses"]
        self._entrant.peak_bytes = max(self._entrant.peak_bytes, answer["peak_bytes"])
        return answer["seconds"]

    def first_update(self) -> None:
        """Has it make update 0, which is timed from the start of its process."""
        self.turn(0, 1)
        self._entrant.first_seconds = time.perf_counter() - self._began
        self._entrant.peak_bytes = 0  # that of compiling, for some

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def compete(
    entrants: Sequence[Entrant],
    common: dict[str, Any],
    scratch: Path,
    environment: dict[str, str],
    rounds: int,
    updates: int,
    alone: bool,
) -> None:
    """Starts everyone in turn, each with its first update, then lets them take turns of `updates` updates.

    Args:
      entrants: the figures are noted in them; who is absent stays so, and who fails becomes it.
      common: what all workers are told.
      scratch: a folder for their files.
      environment: what they find in theirs.
      rounds: turns of each.
      updates: of a turn.
      alone: each takes all its turns and ends before the next starts: where the memory does not hold two.
    """
    if not alone:
        environment = environment | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # a GPU's memory is for all of them
    for group in [[entrant] for entrant in entrants] if alone else [list(entrants)]:
        with contextlib.ExitStack() as workers:
            started: dict[int, Worker] = {}
            for place, entrant in enumerate(group):
                with _absent_if_lost(entrant):
                    if not entrant.absent:
                        console.print(f"{entrant.name}, {entrant.dtype}: loading, first update", markup=False)
                        worker = Worker(entrant, common, scratch, environment)
                        workers.callback(worker.close)
                        worker.first_update()
                        started[place] = worker
                        console.print(f"after {entrant.first_seconds:.1f} s: loss {entrant.losses[0]:.5f}")
            for turn in range(rounds):
                for place, worker in list(started.items()):
                    with _absent_if_lost(group[place]):
                        group[place].turns.append(worker.turn(1 + turn * updates, updates))
                        seconds = sum(group[place].turns[-1])
                        console.print(f"round {turn + 1}  {group[place].name}, {group[place].dtype}: {seconds:.2f} s")
                    if group[place].absent:
                        del started[place]


@contextlib.contextmanager
def _absent_if_lost(entrant: Entrant) -> Iterator[None]:
    try:
        yield
    except Lost as loss:
        entrant.absent = f"failed: {loss}"
        console.print(f"{entrant.name}, {entrant.dtype} {entrant.absent}", markup=False)
