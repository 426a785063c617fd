"""Checksums of a saved step: written before it is committed, and held against its files before it is used."""

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from alpaca_jax.parallel.exchange import heard_from_all, place_among_all
from alpaca_jax.parallel.processes import barrier, is_first
from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import explain_os_errors, read_json, write_json_atomic
from alpaca_jax.support.hashing import sha256_file
from alpaca_jax.support.progress import console

CHECKSUMS = "checksums.json"
# Orbax writes them when it commits the step, after the checksums.
_COMMIT_MARKS = ("_CHECKPOINT_METADATA", "commit_success.txt")
# SHA-256 lets other threads run meanwhile; more than a few wait for the disk, or take cores from those that feed data.
_THREADS = 4


def write_checksums(step: Path) -> None:
    """Writes the SHA-256 of each file of a step into its folder.

    Raises:
      OSError: a file cannot be read.
      UserError: the folder cannot be written.
    """
    names = _files(step)
    with ThreadPoolExecutor(_THREADS) as threads:
        sums = threads.map(sha256_file, [step / name for name in names])
        write_json_atomic(step / CHECKSUMS, dict(zip(names, sums, strict=True)))


def fault_of(step: Path, items: Sequence[str] = ()) -> str | None:
    """What is wrong with a committed step, in a few words; None if nothing is.

    Several processes read each its share of the files, and all return the same. A step that holds no checksums (another
    program wrote it) passes.

    Args:
      step: its folder.
      items: the folders in it that count; empty for all.

    Raises:
      UserError: a file that is there cannot be read.
    """
    with explain_os_errors(step):
        faults = heard_from_all(_own_fault(step, items) or "")
    return next(filter(None, faults), None)


def _own_fault(step: Path, items: Sequence[str]) -> str | None:
    """What is wrong with this process's share of the files."""
    if not (step / CHECKSUMS).is_file():
        return None
    try:
        sums = dict(read_json(step / CHECKSUMS))
    except (UserError, TypeError, ValueError):
        return f"{CHECKSUMS} holds no checksums"
    chosen = [name for name in sorted(sums) if not items or name.split("/")[0] in items]
    index, count = place_among_all()

    def look(name: str) -> str | None:
        try:
            return None if sha256_file(step / name) == sums[name] else f"{name} has other bytes than were written"
        except FileNotFoundError:
            return f"{name} is gone"

    with ThreadPoolExecutor(_THREADS) as threads:
        return next(filter(None, threads.map(look, chosen[index::count])), None)


def discard_damaged(folder: Path) -> None:
    """Removes the newest steps that are damaged, so that the run goes on from the newest that is whole, and says so.

    Args:
      folder: with the steps; it need not exist. All processes come here.

    Raises:
      UserError: there are steps, and none is whole; nothing is removed then.
    """
    damaged: list[tuple[Path, str]] = []
    steps = sorted((step for step in folder.glob("[0-9]*") if step.name.isdecimal()), key=lambda step: -int(step.name))
    for step in steps:
        fault = fault_of(step)
        if fault is None:
            break
        damaged.append((step, fault))
    if damaged and len(damaged) == len(steps):
        raise UserError(
            str(folder),
            expected="a save that is whole",
            found=f"{len(damaged)} damaged (update {steps[0].name}: {damaged[0][1]})",
            remedy="bring back a copy of one, or delete the folder to begin again",
        )
    for step, fault in damaged:
        console.print(f"[yellow]The save of update {step.name} is damaged[/]: {shorten(fault, 160)}; it is removed")
        if is_first():
            with explain_os_errors(step):
                shutil.rmtree(step)
    if damaged:
        console.print(f"The one before is used: update {steps[len(damaged)].name}")
    barrier("damaged saves are gone")


def _files(step: Path) -> list[str]:
    """The names of the files that count, relative to the step's folder."""
    found = (Path(folder) / name for folder, _, names in os.walk(step) for name in names)
    return sorted(path.relative_to(step).as_posix() for path in found if path.name not in (*_COMMIT_MARKS, CHECKSUMS))
