"""Everything a run needs, checked and put together before its first update."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alpaca_jax.checkpoint.folder import CheckpointFolder, check_architecture, check_vocabulary
from alpaca_jax.checkpoint.store import Store, abstract_parameters
from alpaca_jax.data.batches import TrainingBatches
from alpaca_jax.data.packed_dataset import PackedDataset, open_packed_dataset
from alpaca_jax.data.packing import ROW_DTYPES
from alpaca_jax.data.tokenizer import Tokenizer
from alpaca_jax.model.config import ModelConfig
from alpaca_jax.model.definition import Definition, define
from alpaca_jax.model.presets import preset
from alpaca_jax.parallel.mesh import batch_divisor, batch_sharding, make_mesh, require_platform, use_cpu_devices
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import write_json_atomic
from alpaca_jax.support.hashing import sha256_json
from alpaca_jax.training.config import validate
from alpaca_jax.training.optimiser import learning_rate_schedule, make_optimiser, num_updates
from alpaca_jax.training.state import TrainState, abstract_state, new_state, state_from, state_shardings
from alpaca_jax.training.step import evaluation_step, train_step


@dataclasses.dataclass(frozen=True)
class Run:
    """The parts of a training run; none of them changes while it runs."""

    config: ConfigDict
    workdir: Path
    dataset: PackedDataset
    tokenizer: Tokenizer
    definition: Definition
    mesh: Mesh
    schedule: optax.Schedule
    optimiser: optax.GradientTransformation
    shardings: TrainState
    scheduled_updates: int

    @property
    def last_update(self) -> int:
        """Where the run stops: at the end of the schedule, or at `config.train.steps` if that comes first."""
        steps = self.config.train.steps
        return min(steps, self.scheduled_updates) if steps else self.scheduled_updates

    @property
    def checkpoints(self) -> Path:
        """The run's checkpoint folder."""
        return self.workdir / "checkpoints"

    def batches(self) -> TrainingBatches:
        """The training batches, by number."""
        return TrainingBatches(
            self.dataset,
            self.config.train.batch_rows,
            self.config.data.seed,
            jax.process_index(),
            jax.process_count(),
        )

    def compile_step(self) -> Any:
        """The train step, compiled for the mesh: (state, batch) to (state, metrics), the state donated."""
        step = functools.partial(train_step, self.definition, self.optimiser, self.config)
        state = abstract_state(self.definition, self.optimiser, self.shardings)
        jitted = jax.jit(step, donate_argnums=0, out_shardings=(self.shardings, None))
        with jax.set_mesh(self.mesh):
            return jitted.lower(state, self._abstract_batch()).compile()

    def compile_evaluation(self) -> Any:
        """The evaluation step, compiled for the mesh: (parameters, batch) to (summed loss, tokens)."""
        step = functools.partial(evaluation_step, self.definition, self.config)
        state = abstract_state(self.definition, self.optimiser, self.shardings)
        with jax.set_mesh(self.mesh):
            return jax.jit(step).lower(state.parameters, self._abstract_batch()).compile()

    def start(self) -> TrainState:
        """The state before the first update: from a checkpoint's weights, or from random numbers.

        Raises:
          UserError: the checkpoint cannot be read.
        """
        if not self.config.model.checkpoint:
            with jax.set_mesh(self.mesh):
                return new_state(self.definition, self.optimiser, self.shardings, self.config.train.seed)
        folder = CheckpointFolder.open(self.config.model.checkpoint)
        abstract = abstract_parameters(self.definition.shapes, self.shardings.parameters, np.float32)
        with Store(folder.path) as store:
            parameters = store.restore_parameters(abstract)
        return state_from(parameters, self.optimiser, self.shardings)

    def restore(self, store: Store, step: int) -> TrainState:
        """The state after update `step`, straight into this run's shardings.

        Raises:
          UserError: the save is damaged.
        """
        abstract = abstract_state(self.definition, self.optimiser, self.shardings)
        parameters, optimiser, progress = store.restore(step, abstract.parameters, abstract.optimiser)
        count = jax.device_put(np.int32(progress["step"]), self.shardings.step)
        return TrainState(count, parameters, optimiser)

    def _abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        shape = (self.config.train.batch_rows, self.dataset.seq_len)
        sharding = batch_sharding(self.mesh)
        return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for name, dtype in ROW_DTYPES.items()}


def prepare_run(config: ConfigDict, workdir: Path) -> Run:
    """Checks a configuration against the data, the model, the devices and the work directory.

    Raises:
      UserError: anything that would not work, before any work.
    """
    validate(config)
    if config.mesh.platform == "cpu":
        use_cpu_devices(config.mesh.cpu_devices)
    elif config.mesh.platform:
        require_platform(config.mesh.platform)
    dataset = open_packed_dataset(config.data.path)
    tokenizer = dataset.tokenizer()
    model = _model(config, tokenizer)
    mesh = make_mesh({axis: config.mesh[axis] for axis in ("data", "fsdp", "tensor")})
    _check_batch(config, mesh)
    updates = num_updates(config, dataset.num_rows("train"))
    schedule = learning_rate_schedule(config, updates)
    optimiser = make_optimiser(config, schedule)
    definition = define(model, config.model.remat)
    shardings = state_shardings(definition, optimiser, mesh)
    run = Run(
        config, workdir, dataset, tokenizer, definition, mesh, schedule, optimiser, shardings, scheduled_updates=updates
    )
    run.batches()  # refuses a batch larger than the data
    _check_work_directory(run)
    return run


def _model(config: ConfigDict, tokenizer: Tokenizer) -> ModelConfig:
    model = preset(config.model.preset)
    check_vocabulary(model, tokenizer, config.data.path)
    if config.model.checkpoint:
        folder = CheckpointFolder.open(config.model.checkpoint)
        check_architecture(folder, model, f"config.model.preset {config.model.preset!r}")
        if folder.tokenizer_sha256 != tokenizer.sha256:
            raise UserError(
                config.data.path,
                expected=f"data prepared with the checkpoint's tokenizer, SHA-256 {folder.tokenizer_sha256[:12]}",
                found=tokenizer.sha256[:12],
                remedy=f"prepare them with --tokenizer={folder.path}/tokenizer",
            )
    return model


def _check_batch(config: ConfigDict, mesh: Mesh) -> None:
    rows, parts = config.train.batch_rows // config.train.microbatches, batch_divisor(mesh)
    if rows % parts:
        raise UserError(
            "config.train.batch_rows",
            expected=f"a multiple of {parts * config.train.microbatches} "
            f"(mesh data × fsdp = {parts}, times {config.train.microbatches} microbatches)",
            found=str(config.train.batch_rows),
            remedy="change --config.train.batch_rows, --config.train.microbatches or the mesh",
        )


def _check_work_directory(run: Run) -> None:
    """Refuses to go on with a run that was started on other data or with another model."""
    if not CheckpointFolder.exists(run.checkpoints):
        return
    folder = CheckpointFolder.open(run.checkpoints)
    check_architecture(folder, run.definition.config, "this configuration")
    if folder.provenance.get("dataset") != sha256_json(run.dataset.metadata):
        raise UserError(
            str(run.workdir),
            expected="a work directory that was trained on the data of config.data.path",
            found="one that was trained on other data",
            remedy="choose another --workdir",
        )


def write_run_file(run: Run) -> None:
    """Writes `run.json`: the resolved configuration, versions, devices and where the data come from.

    Raises:
      UserError: the work directory cannot be written.
    """
    import importlib.metadata

    import alpaca_jax

    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")
    write_json_atomic(
        run.workdir / "run.json",
        {
            "config": json.loads(run.config.to_json_best_effort()),
            "updates": run.scheduled_updates,
            "versions": {"alpaca_jax": alpaca_jax.__version__}
            | {package: importlib.metadata.version(package) for package in packages},
            "devices": f"{jax.device_count()} × {jax.devices()[0].device_kind}",
            "model": run.definition.config.to_json(),
            "dataset": run.dataset.metadata,
        },
    )
