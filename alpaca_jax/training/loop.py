"""When things happen: updates, measurements, evaluations, sample answers, saves, the end.

What an update is stands in `step.py`; what a run consists of, in `run.py`.
"""

import time
from typing import Any

import jax

from alpaca_jax.checkpoint.folder import CheckpointFolder
from alpaca_jax.checkpoint.store import Store
from alpaca_jax.data.batches import epoch_batches
from alpaca_jax.data.instructions import Instruction
from alpaca_jax.generation.generator import Generator
from alpaca_jax.generation.sampling import Sampling
from alpaca_jax.parallel.mesh import batch_sharding, place_batch, without_context
from alpaca_jax.parallel.processes import barrier, is_first, require_agreement, rows_of_this_process
from alpaca_jax.support.files import explain_os_errors
from alpaca_jax.support.hashing import sha256_json
from alpaca_jax.support.progress import ProgressBar, waiting
from alpaca_jax.training.logs import Logs, NoLogs
from alpaca_jax.training.report import announce, conclude
from alpaca_jax.training.run import Run, require_shared, write_run_file
from alpaca_jax.training.state import TrainState


def train(run: Run) -> None:
    """Trains from where the work directory stands to the last update, and leaves it there.

    Raises:
      UserError: the work directory cannot be written (any more), or a save or the data are damaged.
    """
    with explain_os_errors(run.workdir):
        if is_first():
            _describe(run)
        barrier("the work directory is described")
        require_shared(run)
        with Store(run.checkpoints, keep=run.config.checkpoint.keep) as store:
            _Loop(run, store).go()


def _describe(run: Run) -> None:
    """Writes what a run consists of, where that does not stand there yet."""
    run.workdir.mkdir(parents=True, exist_ok=True)
    write_run_file(run)
    if not CheckpointFolder.exists(run.checkpoints):
        CheckpointFolder.create(
            run.checkpoints,
            run.definition.config,
            run.tokenizer,
            provenance={"dataset": sha256_json(run.dataset.metadata), "from": run.config.model.checkpoint or None},
            template=run.template,
        )


class _Loop:
    def __init__(self, run: Run, store: Store):
        self._run, self._store = run, store
        self._start = store.latest_step() or 0
        require_agreement("the newest checkpoint", str(self._start), "give all processes the same folder")
        self._logs = Logs(run, resume_at=self._start) if is_first() else NoLogs()
        self._evaluates = "eval" in run.dataset.splits
        self._evaluation_step: Any = None

    def go(self) -> None:
        run, last = self._run, self._run.last_update
        announce(run, self._start)
        if self._start < last:
            state = run.restore(self._store, self._start) if self._start else self._begin()
            self._updates(state, last)
        self._logs.close()
        if isinstance(self._logs, Logs):
            conclude(run, self._logs)

    def _begin(self) -> TrainState:
        state = self._run.start()
        self._evaluate(0, state)
        self._sample(0, state)
        return state

    def _updates(self, state: TrainState, last: int) -> None:
        run, config = self._run, self._run.config
        batches = self._run.batches().iterate(self._start)
        with waiting("compiling the train step"):
            step = run.compile_step()
        with ProgressBar("training", last, self._start) as bar:
            for number in range(self._start + 1, last + 1):
                began = time.perf_counter()
                state, metrics = step(state, place_batch(run.mesh, next(batches)))
                measured = {name: float(value) for name, value in jax.device_get(metrics).items()}
                self._logs.update(number, measured, time.perf_counter() - began)
                bar.advance(note=self._logs.note)
                if number == last or number % config.evaluation.every == 0:
                    self._evaluate(number, state)
                if number == last or (config.samples.every and number % config.samples.every == 0):
                    self._sample(number, state)
                # Last, so that whatever a save at this update stands for is already in the logs.
                if number == last or number % config.checkpoint.every == 0:
                    self._store.save(number, state.parameters, state.optimiser, {"step": number})

    def _evaluate(self, number: int, state: TrainState) -> None:
        """The loss on held-out rows, the same rows each time."""
        if not self._evaluates:
            return
        run, batch_rows = self._run, self._run.config.train.batch_rows
        self._evaluation_step = self._evaluation_step or run.compile_evaluation()
        wanted = run.config.evaluation.rows or run.dataset.num_rows("eval")
        loss, count = 0.0, 0.0
        batches = epoch_batches(run.dataset, "eval", batch_rows, *rows_of_this_process(batch_sharding(run.mesh)))
        for index, batch in enumerate(batches):
            if index * batch_rows >= wanted:
                break
            sums = self._evaluation_step(state.parameters, place_batch(run.mesh, batch))
            loss, count = loss + float(sums[0]), count + float(sums[1])
        self._logs.evaluation(number, loss / max(count, 1.0), int(count))

    def _sample(self, number: int, state: TrainState) -> None:
        """Greedy answers to the configuration's instructions, in the type that the model is trained in."""
        run, options = self._run, self._run.config.samples
        if not options.instructions:
            return
        weights = jax.tree.map(lambda p: p.astype(run.config.model.compute_dtype), state.parameters)
        generator = Generator(run.definition, weights, run.tokenizer, run.template, without_context(run.mesh))
        prompts = [Instruction(instruction, "", "") for instruction in options.instructions]
        sampling = Sampling(temperature=0.0, max_new_tokens=options.max_new_tokens)
        answers = generator.answer(prompts, sampling)
        self._logs.samples(number, dict(zip(options.instructions, answers, strict=True)))
