"""Stages that follow each other, each done once: a run that was stopped in any way goes on with the first that is not.

    stages = [Stage("weights", "a model to begin with", bring_in, makes=("base",)), …]
    figures = go_through(stages, folder)

A stage that is done has its figures in FOLDER/done/NAME.json, written last. The programs that a stage starts, servers
too, end with the process that has started them, however it ends (`tied.py`).
"""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import read_json, write_json_atomic
from alpaca_jax.support.progress import console

ROOT = Path(__file__).resolve().parents[1]
# Loading the weights and compiling the first token take a server 15 s; to its end it finishes what it answers.
_START_SECONDS, _END_SECONDS = 300.0, 60.0
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")

Figures = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of a longer way.

    Attributes:
      name: of the stage, and of the file that says that it is done.
      about: what it does, for the terminal.
      run: does it in the folder of all; returns figures, which JSON can hold.
      makes: the files and folders, relative to the folder of all, that are there when it is done.
      goes_on: whether it goes on with what a killed one has left of them; otherwise that is removed before.
    """

    name: str
    about: str
    run: Callable[[Path], Figures]
    makes: tuple[str, ...]
    goes_on: bool = False

    def is_done(self, folder: Path) -> bool:
        """Whether it has been done, and what it made is still there."""
        return self.mark(folder).exists() and self.has_made(folder)

    def has_made(self, folder: Path) -> bool:
        """Whether all that it makes is there."""
        return all((folder / name).exists() for name in self.makes)

    def mark(self, folder: Path) -> Path:
        """The file that says that it is done."""
        return folder / "done" / f"{self.name}.json"


def go_through(stages: Sequence[Stage], folder: Path) -> dict[str, Figures]:
    """Runs the stages that are not done yet; the figures of all, in order, with their `seconds`.

    A stage that went on after a kill counts the seconds since then.

    Raises:
      UserError: a stage failed; it has no mark, and the next start begins with it.
    """
    figures: dict[str, Figures] = {}
    for number, stage in enumerate(stages, 1):
        done = stage.is_done(folder)
        note = " (done before)" if done else ""
        console.print(f"\n[bold]{number}/{len(stages)} {stage.name}[/]: {stage.about}{note}")
        if not done:
            stage.mark(folder).unlink(missing_ok=True)
            if not stage.goes_on:
                _clear(stage, folder)
            began = time.monotonic()
            found = stage.run(folder)
            assert stage.has_made(folder), f"{stage.name} makes something else than {stage.makes}"
            write_json_atomic(stage.mark(folder), found | {"seconds": round(time.monotonic() - began, 1)})
        figures[stage.name] = read_json(stage.mark(folder))
        console.print("made " + ", ".join(f"{shown(folder)}/{name}" for name in stage.makes), markup=False)
        console.print(in_words(figures[stage.name]), markup=False)
    return figures


def in_words(figures: Figures) -> str:
    """Figures as one line."""
    return ", ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in figures.items())


def _number(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_number, value))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())


def _clear(stage: Stage, folder: Path) -> None:
    """Removes what a stage makes, and what a killed program has left beside it under a hidden name."""
    for name in stage.makes:
        path = folder / name
        for left in (path, *path.parent.glob(f".{path.name}.*")):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)


def shown(path: Path) -> str:
    """A path as the commands have it: from the root of the project, where it lies there."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def program(name: str, *flags: str, good_codes: Sequence[int] = (0,)) -> Figures:
    """Runs a program of this project, its progress to the terminal; the JSON object that it prints last, if it does.

    Raises:
      UserError: it ends with another code than those; what it had to say is on the terminal.
    """
    _say(name, flags)
    process = _start(name, flags, stdout=subprocess.PIPE, text=True)
    try:
        printed, _ = process.communicate()
    except KeyboardInterrupt:
        process.wait()  # the terminal has told it too: it saves what it has, and ends
        raise
    if process.returncode not in good_codes:
        raise UserError(
            f"alpaca_jax.{name}",
            expected="that it ends well",
            found=f"the exit code {process.returncode}",
            remedy="mend what its own line above names, and run the same command again: it goes on from here",
        )
    lines = printed.splitlines()
    with contextlib.suppress(ValueError, IndexError):
        if isinstance(value := json.loads(lines[-1]), dict):
            return value
    for line in lines:
        console.print(line, markup=False)
    return {}


@contextlib.contextmanager
def served(flags: Sequence[str], log: Path) -> Iterator[str]:
    """A server (`alpaca_jax.serve` with these flags) while the block lasts; yields its address.

    Raises:
      UserError: it does not come up, or is no longer there when the block ends.
    """
    _say("serve", flags, " &")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as written:
        process = _start("serve", flags, stdout=written, stderr=written)
    try:
        yield _address(process, log)
        if process.poll() is not None:
            raise _no_server(log, f"the exit code {process.returncode} in the middle")
    finally:
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen, log: Path) -> str:
    """Where the server listens, once it is ready."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        said = log.read_text()
        if ended:
            raise _no_server(log, (said.splitlines() or ["nothing said"])[-1])
        if (found := _ADDRESS.search(said)) and _is_ready(found[0]):
            return found[0]
        time.sleep(0.2)
    raise _no_server(log, f"none after {_START_SECONDS:g} s")


def _no_server(log: Path, found: str) -> UserError:
    remedy = f"read {shown(log)}, and run the same command again: it goes on from here"
    return UserError("alpaca_jax.serve", expected="a server that answers", found=found, remedy=remedy)


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/healthz", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _say(name: str, flags: Sequence[str], end: str = "") -> None:
    console.print(f"$ python -m alpaca_jax.{name} {' '.join(flags)}{end}", markup=False, style="dim")


def _start(name: str, flags: Sequence[str], **streams: Any) -> subprocess.Popen:
    tied = [sys.executable, "-m", "tools.tied", str(os.getpid())]
    return subprocess.Popen([*tied, sys.executable, "-m", f"alpaca_jax.{name}", *flags], cwd=ROOT, **streams)
