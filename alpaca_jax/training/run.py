"""Everything a run needs, checked and put together before its first update."""

import dataclasses
import functools
import json
import socket
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alpaca_jax.checkpoint.folder import (
    CheckpointFolder,
    check_architecture,
    check_same_template,
    check_vocabulary,
)
from alpaca_jax.checkpoint.store import Store, abstract_parameters
from alpaca_jax.data.batches import TrainingBatches
from alpaca_jax.data.examples import encode_prompt
from alpaca_jax.data.instructions import Instruction
from alpaca_jax.data.packed_dataset import PackedDataset, open_packed_dataset
from alpaca_jax.data.prompt import Template
from alpaca_jax.data.tokenizer import Tokenizer
from alpaca_jax.model.attention_choice import Choice, Need, choose_attention
from alpaca_jax.model.attention_parity import check_attention
from alpaca_jax.model.config import ModelConfig
from alpaca_jax.model.definition import Definition, define
from alpaca_jax.model.presets import preset
from alpaca_jax.parallel.chips import chip_of
from alpaca_jax.parallel.compiler_options import compiler_options
from alpaca_jax.parallel.mesh import MESH_AXES, batch_sharding, make_mesh, require_platform, use_cpu_devices
from alpaca_jax.parallel.processes import require_agreement, require_joined, rows_of_this_process
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import write_json_atomic
from alpaca_jax.support.hashing import sha256_json
from alpaca_jax.support.program import require_extra
from alpaca_jax.training.compilation import abstract_batch, check_batch, trace_train_step
from alpaca_jax.training.config import validate
from alpaca_jax.training.optimiser import learning_rate_schedule, make_optimiser, num_updates
from alpaca_jax.training.pipeline import Step
from alpaca_jax.training.state import TrainState, abstract_state, new_state, state_from, state_shardings
from alpaca_jax.training.step import evaluation_step

# Network file systems show a new file to other machines with some delay.
_SECONDS_TO_BE_SEEN = 30.0


@dataclasses.dataclass(frozen=True)
class Run:
    """The parts of a training run; none of them changes while it runs."""

    config: ConfigDict
    workdir: Path
    dataset: PackedDataset
    tokenizer: Tokenizer
    attention: Choice
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

    @property
    def template(self) -> Template:
        """The prompt template of the data, and so of the model."""
        return self.dataset.template

    def batches(self) -> TrainingBatches:
        """The training batches, by number."""
        return TrainingBatches(
            self.dataset,
            self.config.train.batch_rows,
            self.config.data.seed,
            *rows_of_this_process(batch_sharding(self.mesh)),
        )

    def compile_step(self) -> Step:
        """The train step, compiled for the mesh."""
        traced = trace_train_step(
            self.definition, self.optimiser, self.config, self.shardings, self.mesh, self.dataset.seq_len
        )
        chip = chip_of(self.mesh.devices.flat[0].device_kind)
        return traced.lower().compile(compiler_options=compiler_options(chip))

    def compile_evaluation(self) -> Any:
        """The evaluation step, compiled for the mesh: (parameters, batch) to (summed loss, tokens)."""
        step = functools.partial(evaluation_step, self.definition, self.config)
        state = abstract_state(self.definition, self.optimiser, self.shardings, self.config.model.parameter_dtype)
        with jax.set_mesh(self.mesh):
            return (
                jax.jit(step)
                .lower(state.parameters, abstract_batch(self.config, self.mesh, self.dataset.seq_len))
                .compile()
            )

    def start(self) -> TrainState:
        """The state before the first update: from a checkpoint's weights, or from random numbers.

        Raises:
          UserError: the checkpoint cannot be read.
        """
        if not self.config.model.checkpoint:
            with jax.set_mesh(self.mesh):
                return new_state(
                    self.definition,
                    self.optimiser,
                    self.shardings,
                    self.config.train.seed,
                    self.config.model.parameter_dtype,
                )
        folder = CheckpointFolder.open(self.config.model.checkpoint)
        abstract = abstract_parameters(
            self.definition.shapes, self.shardings.parameters, self.config.model.parameter_dtype
        )
        with Store(folder.path) as store:
            parameters = store.restore_parameters(abstract, folder.step)
        return state_from(parameters, self.optimiser, self.shardings)

    def restore(self, store: Store, step: int) -> TrainState:
        """The state after update `step`, straight into this run's shardings.

        Raises:
          UserError: the save is damaged.
        """
        abstract = abstract_state(self.definition, self.optimiser, self.shardings, self.config.model.parameter_dtype)
        parameters, optimiser, progress = store.restore(step, abstract.parameters, abstract.optimiser)
        count = jax.device_put(np.int32(progress["step"]), self.shardings.step)
        return TrainState(count, parameters, optimiser)


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
    require_joined()
    dataset = open_packed_dataset(config.data.path)
    tokenizer = dataset.tokenizer()
    model = _model(config, tokenizer)
    mesh = make_mesh({axis: config.mesh[axis] for axis in MESH_AXES})
    _check_seq_len(config, dataset)
    check_batch(config, mesh, dataset.seq_len)
    updates = num_updates(config, dataset.num_rows("train"))
    schedule = learning_rate_schedule(config, updates)
    optimiser = make_optimiser(config, schedule)
    attention = _attention(config, model, mesh, dataset)
    definition = define(model, config.model.remat, attention.kernel)
    shardings = state_shardings(definition, optimiser, mesh)
    run = Run(
        config,
        workdir,
        dataset,
        tokenizer,
        attention,
        definition,
        mesh,
        schedule,
        optimiser,
        shardings,
        scheduled_updates=updates,
    )
    run.batches()  # refuses a batch larger than the data
    if config.logging.wandb_project:
        require_extra("config.logging.wandb_project", "wandb", "wandb")
    if config.model.checkpoint:
        folder = CheckpointFolder.open(config.model.checkpoint)
        check_same_template(folder, run.template, config.data.path)
        with Store(folder.path) as store:
            store.find(folder.step)  # refuses a step that is not there
    _check_work_directory(run)
    _check_samples(run)
    require_agreement("the configuration", sha256_json(config.to_json_best_effort()), "start all with the same flags")
    require_agreement("the data", sha256_json(dataset.metadata), "give all processes the same files")
    if attention.kernel.name != "xla":
        check_attention(attention)
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
                remedy=f"prepare them with --tokenizer={folder.path}",
            )
    return model


def _attention(config: ConfigDict, model: ModelConfig, mesh: Mesh, dataset: PackedDataset) -> Choice:
    """The attention kernel for these devices and these rows."""
    most_segments = 0
    if config.model.attention == "cudnn_packed":
        sources = map(dataset.source, dataset.splits)
        most_segments = max(int(rows[row]["segment_ids"].max()) for rows in sources for row in range(len(rows)))
    need = Need(model, dataset.seq_len, config.model.compute_dtype, most_segments)
    return choose_attention(config.model.attention, mesh, need)


def _check_seq_len(config: ConfigDict, dataset: PackedDataset) -> None:
    if config.data.seq_len not in (0, dataset.seq_len):
        raise UserError(
            config.data.path,
            expected=f"rows of {config.data.seq_len}, as config.data.seq_len says",
            found=f"rows of {dataset.seq_len}",
            remedy=f"prepare the data with --seq_len={config.data.seq_len}, or set --config.data.seq_len=0",
        )


def _check_work_directory(run: Run) -> None:
    """Refuses to go on with a run that was started on other data or with another model, and a checkpoint's folder."""
    if CheckpointFolder.exists(run.workdir):
        # `--checkpoint=WORKDIR` would stand for what is there already.
        raise UserError(
            str(run.workdir),
            expected="a work directory, new or of `train`",
            found="the folder of a checkpoint",
            remedy="choose another --workdir",
        )
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


def _check_samples(run: Run) -> None:
    """Refuses sample instructions that do not fit, rather than after the updates before the first answers."""
    most = run.definition.config.max_position_embeddings
    for place, instruction in enumerate(run.config.samples.instructions, start=1):
        length = len(encode_prompt(Instruction(instruction, "", ""), run.tokenizer, run.template))
        if length >= most:
            raise UserError(
                "config.samples.instructions",
                expected=f"instructions of up to {most - 1} tokens with the template, the context less one",
                found=f"{length} in number {place}",
                remedy="shorten it",
            )


def require_shared(run: Run) -> None:
    """Refuses a work directory that is not the same folder for all processes.

    Raises:
      UserError: this one does not see what process 0 has just written.
    """
    deadline = time.monotonic() + _SECONDS_TO_BE_SEEN
    while not CheckpointFolder.exists(run.checkpoints):
        if time.monotonic() > deadline:
            raise UserError(
                f"{run.workdir} on {socket.gethostname()}",
                expected="a folder that all processes share",
                found="none of what process 0 wrote there",
                remedy="choose a --workdir on a shared file system",
            )
        time.sleep(0.5)


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
