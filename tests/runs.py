"""How tests run `train` on the configuration tiny, and read what it left."""

import json
from pathlib import Path

import jax
import numpy as np

from alpaca_jax.checkpoint.folder import CheckpointFolder
from alpaca_jax.checkpoint.store import Store, abstract_parameters
from alpaca_jax.model.definition import define


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


def parameters_of(workdir: Path, step: int | None = None) -> dict:
    """The parameters of a step (the newest), on one device, wherever they were when they were saved."""
    folder = CheckpointFolder.open(workdir)
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = define(folder.model).shapes
    places = jax.tree.map(lambda _: one, shapes)
    with Store(folder.path) as store:
        return jax.tree.map(np.asarray, store.restore_parameters(abstract_parameters(shapes, places, np.float32), step))
