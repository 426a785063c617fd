"""How tests run `train` on the configuration tiny, and read what it left."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from alpaca_jax.checkpoint.folder import CheckpointFolder
from alpaca_jax.checkpoint.store import Store, abstract_parameters
from alpaca_jax.model.definition import define

# The only values of a line of metrics.jsonl that depend on the clock.
RATES = ("tokens_per_second", "target_tokens_per_second", "mfu")
TIMED = (*RATES, "input_wait_seconds", "seconds", "goodput")


def train_flags(data: Path, workdir: Path, *more: str) -> list[str]:
    """Flags with which runs of any number of processes can be compared: float32, a save every other update."""
    return [
        "--config=configs/tiny.py:cpu",
        f"--workdir={workdir}",
        f"--config.data.path={data}",
        "--config.model.compute_dtype=float32",
        "--config.checkpoint.every=2",
        "--config.checkpoint.keep=10",
        "--config.evaluation.every=2",
        "--config.evaluation.rows=4",
        "--config.samples.instructions=()",
        *more,
    ]


def lines_of(path: Path, without: tuple[str, ...] = ()) -> list[dict]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in without} for line in lines]


def wait_until(holds: Callable[[], object]) -> None:
    """Returns when something holds; fails after four minutes."""
    deadline = time.monotonic() + 240
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def wait_for_lines(path: Path, count: int) -> None:
    """Returns when a run has written so many lines."""
    wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") >= count)


def fake_wandb(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a module of this source in the place of wandb, for this process and those that it starts."""
    folder.mkdir()
    (folder / "wandb.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    )


def parameters_of(workdir: Path, step: int | None = None) -> dict:
    """The parameters of a step (the newest), on one device, wherever they were when they were saved."""
    folder = CheckpointFolder.open(workdir)
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = define(folder.model).shapes
    places = jax.tree.map(lambda _: one, shapes)
    with Store(folder.path) as store:
        return jax.tree.map(np.asarray, store.restore_parameters(abstract_parameters(shapes, places, np.float32), step))
