"""Injects faults into real runs of `train` on this machine's CPU, and prints what each of them cost.

    python -m tools.fault_campaign                                  # all, with 30 kills; some ten minutes
    python -m tools.fault_campaign --kills=2 --faults=kill,flipped  # the short form, as in the tests

Each fault hits a run that an undisturbed one is compared with: every bit of the parameters, every line of metrics.jsonl
but for its times. `lost` is the most updates that a restart had to make again: those since the newest save, which it
must go on from. A save is made after every fourth update; it is written while some more of these quick ones are made.
Exit code 1 where a run did not survive or came out different.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tools.fault_runs import (
    EVERY,
    HALF,
    LIMIT_SECONDS,
    UPDATES,
    Campaign,
    Outcome,
    identical,
    lines,
    may_mount,
    mounted,
    refused,
    saves,
    wait_until,
)


def kill(campaign: Campaign) -> Outcome:
    """A third at any moment from the start on, a third after some updates, a third while a save is written."""
    outcome, rounds = Outcome(), 0
    workdir, reached, newest = campaign.folder / "kill0", 0, 0
    while outcome.tried < campaign.kills:
        process = campaign.start(workdir)
        wait_for_the_moment(campaign.random, outcome.tried % 3, process, workdir, reached)
        process.kill()
        code, said = campaign.end(process, workdir)
        outcome.note_resumed(said, reached, newest)
        if code == -signal.SIGKILL:
            outcome.tried += 1
            outcome.survived += not any(line.startswith("error: ") for line in said)
            reached, newest = len(lines(workdir)), (saves(workdir) or [0])[-1]
        else:  # it was done before
            outcome.identical &= code == 0 and identical(workdir, campaign.calm)
            rounds += 1
            workdir, reached, newest = campaign.folder / f"kill{rounds}", 0, 0
    campaign.finish(workdir, outcome, reached, first=False)
    return outcome


def wait_for_the_moment(
    choice: random.Random, kind: int, process: subprocess.Popen, workdir: Path, reached: int
) -> None:
    """Returns when a process is to be killed."""
    if kind == 0:
        wait_until(process, lambda: False, choice.uniform(0, 10))
    elif kind == 1:
        goal = reached + choice.randint(1, 6)
        wait_until(process, lambda: len(lines(workdir)) >= goal)
    else:
        wait_until(process, lambda: list((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp")))
        time.sleep(choice.uniform(0, 0.05))


def stopped_by(number: int, code: int) -> Callable[[Campaign], Outcome]:
    """A signal that asks to save and stop."""

    def fault(campaign: Campaign) -> Outcome:
        outcome, workdir = Outcome(), campaign.half(f"signal{number}")
        process = campaign.start(workdir)
        wait_until(process, lambda: HALF < len(lines(workdir)) < UPDATES)
        process.send_signal(number)
        ended, _ = campaign.end(process, workdir)
        campaign.finish(workdir, outcome, len(lines(workdir)))
        outcome.identical &= ended == code
        return outcome

    return fault


def damaged(change: Callable[[Path], None], name: str) -> Callable[[Campaign], Outcome]:
    """The largest file of the newest save is changed."""

    def fault(campaign: Campaign) -> Outcome:
        outcome, workdir = Outcome(), campaign.half(name)
        files = (workdir / "checkpoints" / str(HALF)).rglob("*")
        change(max(files, key=lambda path: path.stat().st_size if path.is_file() else 0))
        campaign.finish(workdir, outcome, HALF, newest=HALF - EVERY)
        return outcome

    return fault


def tear(path: Path) -> None:
    """Cuts a file in two."""
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    """Changes one bit."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def full_disk(campaign: Campaign) -> Outcome:
    """A disk with room for little more than the saves that are there."""
    outcome, workdir, disk = Outcome(), campaign.half("full"), campaign.folder / "disk"
    disk.mkdir()
    used = sum(path.stat().st_size for path in workdir.rglob("*") if path.is_file())
    with mounted(disk, f"size={used + 8 * 2**20}"):
        small = Path(shutil.copytree(workdir, disk / "run"))
        process = campaign.start(small)
        ended = campaign.end(process, small)
        reached = len(lines(small))
        shutil.rmtree(workdir)
        shutil.copytree(small, workdir)
    campaign.finish(workdir, outcome, reached)
    outcome.survived -= not refused(*ended)
    return outcome


def read_only(campaign: Campaign) -> Outcome:
    """A work directory that cannot be written."""
    outcome, workdir = Outcome(), campaign.half("read_only")
    subprocess.run(["mount", "--bind", workdir, workdir], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", workdir], check=True)
    try:
        ended = campaign.run(workdir)
    finally:
        subprocess.run(["umount", workdir], check=True)
    campaign.finish(workdir, outcome, HALF)
    outcome.survived -= not refused(*ended)
    return outcome


def lost_data(campaign: Campaign) -> Outcome:
    """The file of rows is overwritten while it is read, then brought back."""
    outcome, workdir = Outcome(), campaign.half("lost_data")
    data = Path(shutil.copytree(campaign.data, campaign.folder / "fragile"))
    process = campaign.start(workdir, data=data)
    wait_until(process, lambda: HALF < len(lines(workdir)) < UPDATES)
    for file in data.glob("*train*array_record*"):
        os.truncate(file, 100)
    ended = campaign.end(process, workdir)
    campaign.finish(workdir, outcome, len(lines(workdir)))
    outcome.survived -= not (refused(*ended) and str(data) in ended[1][-1])
    return outcome


def dead_sink(campaign: Campaign) -> Outcome:
    """TensorBoard's folder cannot be written."""
    outcome, workdir = Outcome(), campaign.half("dead_sink")
    shutil.rmtree(workdir / "tensorboard")
    (workdir / "tensorboard").write_text("a file")
    campaign.finish(workdir, outcome, HALF)
    return outcome


def clock_jumps(campaign: Campaign) -> Outcome:
    """The time of day leaps by up to a day, forwards and back, at every look."""
    outcome, workdir = Outcome(), campaign.half("clock")
    module = campaign.folder / "leaping"
    module.mkdir()
    (module / "sitecustomize.py").write_text(
        "import random, time\nreal, leaps = time.time, random.Random(0)\n"
        "time.time = lambda: real() + leaps.uniform(-86400, 86400)\n"
    )
    kept = campaign.environment
    campaign.environment = kept | {"PYTHONPATH": os.pathsep.join([str(module), kept["PYTHONPATH"]])}
    campaign.finish(workdir, outcome, HALF)
    campaign.environment = kept
    return outcome


def second_run(campaign: Campaign) -> Outcome:
    """A second run into the same work directory while the first is at work."""
    outcome, workdir = Outcome(), campaign.half("second")
    first = campaign.start(workdir)
    wait_until(first, lambda: (workdir / ".lock").read_bytes() != (campaign.calm / ".lock").read_bytes())
    said = campaign.start(workdir)
    code = said.wait(LIMIT_SECONDS)
    outcome.tried, outcome.survived = 1, int(first.wait(LIMIT_SECONDS) == 0)
    outcome.identical = code == 2 and identical(workdir, campaign.calm)
    return outcome


FAULTS: dict[str, tuple[str, Callable[[Campaign], Outcome]]] = {
    "kill": ("kill -9 at random moments", kill),
    "sigterm": ("SIGTERM (preemption)", stopped_by(signal.SIGTERM, 75)),
    "ctrl-c": ("Ctrl-C", stopped_by(signal.SIGINT, 130)),
    "torn": ("the newest save torn", damaged(tear, "torn")),
    "flipped": ("a bit of the newest save flipped", damaged(flip, "flipped")),
    "full": ("a full disk", full_disk),
    "read-only": ("a read-only work directory", read_only),
    "data": ("the data cut while they are read", lost_data),
    "sink": ("a dead metrics sink", dead_sink),
    "clock": ("a clock that jumps", clock_jumps),
    "second": ("a second run, same directory", second_run),
}
_MOUNTING = ("full", "read-only")


def main() -> int:
    """Runs the faults, prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", default=",".join(FAULTS), help="which of them (default all)")
    values = parser.parse_args()
    passed = True
    print("| fault | tried | survived | updates lost | identical |\n|---|--:|--:|--:|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        campaign = Campaign(Path(folder), values.seed, values.kills)
        for name in values.faults.split(","):
            title, fault = FAULTS[name]
            if name in _MOUNTING and not may_mount(Path(folder)):
                print(f"| {title} | 0 (nothing may be mounted here) | | | |", flush=True)
                continue
            found = fault(campaign)
            passed &= found.survived == found.tried and found.identical
            same = "yes" if found.identical else "NO"
            print(f"| {title} | {found.tried} | {found.survived} | {found.lost} | {same} |", flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
