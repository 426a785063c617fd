"""Runs of `train` that `fault_campaign` disturbs: started, looked at from outside, ended, and compared."""

import contextlib
import dataclasses
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

EVERY, UPDATES, HALF = 4, 40, 20
_TIMES = ("tokens_per_second", "target_tokens_per_second", "mfu", "input_wait_seconds", "seconds", "goodput")
LIMIT_SECONDS = 300


@dataclasses.dataclass
class Outcome:
    """What a fault did: how often it was tried, how often the run went on, the most updates lost, and the end."""

    tried: int = 0
    survived: int = 0
    lost: int = 0
    identical: bool = True

    def note_resumed(self, said: list[str], reached: int, newest: int) -> None:
        """Notes where a restart went on, which must be the newest save there was."""
        resumed = [int(line.split("update ")[1].split(",")[0]) for line in said if line.startswith("Going on after")]
        if resumed:
            self.lost = max(self.lost, reached - resumed[0])
            self.identical &= resumed[0] == newest


class Campaign:
    """The folder of a campaign, with the data and the undisturbed run in it."""

    def __init__(self, folder: Path, seed: int, kills: int):
        self.folder, self.random, self.kills = folder, random.Random(seed), kills
        # No cache of compiled programs: out of one, those of several devices of a CPU have ended at times, waiting for
        # each other (`training.compilation`).
        self.environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")]),
        }
        self.data, self.calm = folder / "data", folder / "calm"
        embedded = Path("alpaca_jax/data/embedded")
        source = [f"--input={embedded}/seed_tasks.jsonl", f"--tokenizer={embedded}/tokenizer.model", "--seq_len=128"]
        command = [sys.executable, "-m", "alpaca_jax.prepare", *source, f"--out={self.data}", "--eval_fraction=0.1"]
        subprocess.run(command, env=self.environment, check=True, capture_output=True)
        assert self.run(self.calm)[0] == 0

    def start(self, workdir: Path, data: Path | None = None) -> subprocess.Popen:
        """Starts `train`; its standard error goes to a file beside the work directory."""
        flags = ["--config=configs/tiny.py:cpu", f"--workdir={workdir}", f"--config.data.path={data or self.data}"]
        flags += [
            f"--config.checkpoint.every={EVERY}",
            f"--config.train.steps={UPDATES}",
            "--config.checkpoint.keep=20",
        ]
        flags += ["--config.mesh.cpu_devices=2", "--config.mesh.fsdp=2", "--config.mesh.tensor=1"]
        flags += ["--config.evaluation.every=10", "--config.samples.instructions=()"]
        with open(workdir.with_suffix(".err"), "w") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "alpaca_jax.train", *flags],
                env=self.environment,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )

    def end(self, process: subprocess.Popen, workdir: Path) -> tuple[int, list[str]]:
        """Exit code and lines of standard error of a run, when it has ended."""
        code = process.wait(LIMIT_SECONDS)
        return code, workdir.with_suffix(".err").read_text().splitlines()

    def run(self, workdir: Path) -> tuple[int, list[str]]:
        """A run from its start to its end."""
        return self.end(self.start(workdir), workdir)

    def half(self, name: str) -> Path:
        """A work directory that has been left after half of the updates."""
        workdir = Path(shutil.copytree(self.calm, self.folder / name))
        for step in saves(workdir):
            if step > HALF:
                shutil.rmtree(workdir / "checkpoints" / str(step))
        return workdir

    def finish(
        self, workdir: Path, outcome: Outcome, reached: int, newest: int | None = None, first: bool = True
    ) -> None:
        """Goes on to the end after a fault, from `newest` (the newest save there is), and compares."""
        newest = (saves(workdir) or [0])[-1] if newest is None else newest
        code, said = self.run(workdir)
        outcome.note_resumed(said, reached, newest)
        outcome.tried += first
        outcome.survived += first and code == 0
        outcome.identical &= code == 0 and identical(workdir, self.calm)


def saves(workdir: Path) -> list[int]:
    """The saved updates."""
    folder = workdir / "checkpoints"
    return sorted(int(step.name) for step in folder.iterdir() if step.name.isdecimal()) if folder.exists() else []


def lines(workdir: Path) -> list[dict]:
    """The whole lines of metrics.jsonl, without what depends on the clock."""
    path = workdir / "metrics.jsonl"
    whole = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [{key: value for key, value in json.loads(line).items() if key not in _TIMES} for line in whole]


def identical(workdir: Path, other: Path) -> bool:
    """Whether two runs have the same metrics and, bit for bit, the same newest parameters and optimiser."""
    logging.disable(logging.WARNING)
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
    import orbax.checkpoint as ocp

    if lines(workdir) != lines(other) or saves(workdir)[-1:] != saves(other)[-1:]:
        return False
    import jax
    import numpy as np

    def arrays(folder: Path, item: str):
        path = (folder / "checkpoints" / str(saves(folder)[-1]) / item).absolute()
        with ocp.PyTreeCheckpointer() as reader:
            shapes = reader.metadata(path).item_metadata.tree
            restore = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
            return jax.tree.leaves(reader.restore(path, ocp.args.PyTreeRestore(restore_args=restore)))

    return all(
        a.tobytes() == b.tobytes()
        for item in ("parameters", "optimiser")
        for a, b in zip(arrays(workdir, item), arrays(other, item), strict=True)
    )


def wait_until(process: subprocess.Popen, happened: Callable[[], object], seconds: float = LIMIT_SECONDS) -> bool:
    """Returns whether it happened before the process ended or the time was over."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        if happened():
            return True
        time.sleep(0.001)
    return False


def refused(code: int, said: list[str]) -> bool:
    """Whether a run ended with one line, and a code that says that it failed."""
    return code == 2 and [line.startswith("error: ") for line in said].count(True) == 1 and "Traceback" not in str(said)


def may_mount(folder: Path) -> bool:
    """Whether this process may mount a disk; root in a container often may not."""
    place = Path(tempfile.mkdtemp(dir=folder))
    try:
        with mounted(place, "size=1m"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system in memory at a folder; needs root."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
