"""When things happen: updates, measurements, evaluations, sample answers, saves, the end.

What an update is stands in `step.py`; what a run consists of, in `run.py`.
"""

import contextlib
import math
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NoReturn

import jax
from ml_collections import ConfigDict

from alpaca_jax.checkpoint.folder import CheckpointFolder
from alpaca_jax.checkpoint.integrity import discard_damaged
from alpaca_jax.checkpoint.store import Store
from alpaca_jax.data.batches import epoch_batches
from alpaca_jax.data.instructions import Instruction
from alpaca_jax.generation.generator import Generator
from alpaca_jax.generation.settings import Sampling
from alpaca_jax.model.definition import Parameters
from alpaca_jax.parallel.mesh import batch_sharding, place_batch, without_context
from alpaca_jax.parallel.processes import barrier, is_first, require_agreement, rows_of_this_process
from alpaca_jax.support.errors import Stopped
from alpaca_jax.support.files import explain_os_errors
from alpaca_jax.support.hashing import sha256_json
from alpaca_jax.support.progress import ProgressBar, console, waiting
from alpaca_jax.training.clock import STEPS, Clock, Timing
from alpaca_jax.training.compilation import keep_compiled
from alpaca_jax.training.lock import sole_use
from alpaca_jax.training.logs import Logs, NoLogs
from alpaca_jax.training.number_watch import NumberWatch
from alpaca_jax.training.pipeline import Metrics, Pipeline, Step
from alpaca_jax.training.precision import cast
from alpaca_jax.training.preemption import StopRequests, stopped
from alpaca_jax.training.profile import Profile
from alpaca_jax.training.progress import check_progress, progress_of
from alpaca_jax.training.report import announce, conclude
from alpaca_jax.training.run import Run, require_shared, write_run_file
from alpaca_jax.training.state import TrainState


def train(run: Run, clock: Clock, stops: StopRequests) -> None:
    """Trains from where the work directory stands to the last update, and leaves it there.

    Args:
      run: what to train, on what.
      clock: counts the wall time since the program began.
      stops: entered; asks to save and stop.

    Raises:
      UserError: another run is using the work directory, it cannot be written (any more), or all saves or the data are
        damaged.
      Stopped: it was asked to, or the numbers went wrong; what there was to save is saved.
    """
    with explain_os_errors(run.workdir), sole_use(run.workdir) if is_first() else contextlib.nullcontext():
        if is_first():
            _describe(run)
        barrier("the work directory is described")
        require_shared(run)
        keep_compiled(run.workdir / "compilation_cache", run.mesh)
        discard_damaged(run.checkpoints)
        checkpoint = run.config.checkpoint
        with Store(run.checkpoints, keep=checkpoint.keep, keep_best=checkpoint.keep_best) as store:
            loop = _Loop(run, store, clock, stops)
            with contextlib.closing(loop.logs):
                loop.go()


def _describe(run: Run) -> None:
    """Writes what a run consists of, where that does not stand there yet."""
    run.workdir.mkdir(parents=True, exist_ok=True)
    if not CheckpointFolder.exists(run.checkpoints):
        CheckpointFolder.create(
            run.checkpoints,
            run.definition.config,
            run.tokenizer,
            provenance={"dataset": sha256_json(run.dataset.metadata), "from": run.config.model.checkpoint or None},
            template=run.template,
        )


class _Loop:
    def __init__(self, run: Run, store: Store, clock: Clock, stops: StopRequests):
        self._run, self._store, self._clock, self._stops = run, store, clock, stops
        self._start = self._saved = store.latest_step() or 0
        require_agreement("the newest checkpoint", str(self._start), "give all processes the same folder")
        self._best: float | None = None
        if self._start:
            progress = store.progress(self._start)
            check_progress(run, progress)
            self._best = progress["best_eval_loss"]
        if is_first() and self._start < run.last_update:  # not of a run that is refused, or done
            write_run_file(run)
        self.logs = Logs(run, resume_at=self._start) if is_first() else NoLogs()
        self._watch = NumberWatch(line["loss"] for line in self.logs.metrics() if "skipped" not in line)
        self._evaluates = "eval" in run.dataset.splits
        self._evaluation_step: Any = None
        # Without weights: it holds what is compiled, and the room for a second copy of the model is not taken up.
        mesh = without_context(run.mesh)
        self._generator = Generator.of(run.definition, {}, run.tokenizer, run.template, mesh)

    def go(self) -> None:
        run, last = self._run, self._run.last_update
        announce(run, self._start)
        if self._start < last:
            with ThreadPoolExecutor(1) as beside:
                # The state is read, or made and asked for answers, while it compiles.
                step = beside.submit(run.compile_step)
                if jax.default_backend() == "gpu":
                    self._wait_for(step)  # XLA times kernels there, which wants an idle device
                state = run.restore(self._store, self._start) if self._start else self._begin()
                self._updates(self._wait_for(step), state, last)
        self._end_here()
        if isinstance(self.logs, Logs):
            conclude(run, self.logs, self._store.best_step(), self._clock)

    def _wait_for(self, step: Future[Step]) -> Step:
        with self._clock.part("compilation"), waiting("compiling the train step"):
            return step.result()

    def _begin(self) -> TrainState:
        state = self._run.start()
        self._evaluate(0, state)
        if self._run.config.model.checkpoint:
            self._sample(0, state)  # those of random numbers say nothing, and the first update would wait for them
        return state

    def _updates(self, step: Step, state: TrainState, last: int) -> None:
        run = self._run
        profile = Profile(run.workdir / "profile", run.config.logging.profile_steps if is_first() else ())
        with (
            self._clock.part(STEPS),
            ProgressBar("training", last, self._start) as bar,
            contextlib.closing(run.batches().iterate(self._start)) as batches,
            contextlib.ExitStack() as ending,
        ):

            def measured(number: int, metrics: Metrics, timing: Timing) -> None:
                remarkable = self._watch.look(metrics)
                self.logs.update(number, metrics, timing, remarkable)
                if "skipped" in remarkable:
                    self._tell_skipped(number, metrics)
                bar.advance(note=self.logs.note)

            pipeline = Pipeline(step, state, batches, run.mesh, self._clock, measured)
            del state  # donated
            self._stops.defer()
            ending.callback(profile.end)  # however the updates end
            for number in range(self._start + 1, last + 1):
                if profile.turns_at(number):
                    pipeline.drain()
                    with self._clock.part("rest"):
                        profile.turn()
                pipeline.update(number)
                asked = self._stops.after(number) if number < last else None
                due = self._due(number, last) | ({"save"} if asked else set())
                if due or self._watch.bad_in_a_row:
                    pipeline.drain()
                if self._watch.bad_in_a_row >= run.config.train.max_bad_updates:
                    self._give_up(number, pipeline.state)
                self._after(number, pipeline.state, due)
                if asked:
                    self._end_here()
                    raise stopped(asked, self._saved)

    def _due(self, number: int, last: int) -> set[str]:
        """What comes after an update."""
        config = self._run.config

        def every(updates: int) -> bool:
            return number == last or (updates > 0 and number % updates == 0)

        due = {"save"} if every(config.checkpoint.every) else set()
        if every(config.evaluation.every) or (due and config.checkpoint.keep_best):
            due.add("evaluation")
        return due | {"samples"} if every(config.samples.every) else due

    def _after(self, number: int, state: TrainState, due: set[str]) -> None:
        loss = self._evaluate(number, state) if "evaluation" in due else None
        if "samples" in due:
            self._sample(number, state)
        # Last, so that whatever a save at this update stands for is already in the logs.
        if "save" in due:
            # Skipped updates have left the state as it was before the first of them, and are made again from there.
            skipped = self._watch.bad_in_a_row if number < self._run.last_update else 0
            self._save(number - skipped, state, loss)

    def _save(self, number: int, state: TrainState, loss: float | None = None) -> None:
        if number <= self._saved:
            return
        if loss is not None and math.isfinite(loss):
            self._best = min(loss, self._best if self._best is not None else loss)
        with self._clock.part("saves"):
            progress = progress_of(self._run, number, self._best)
            self._store.save(number, state.parameters, state.optimiser, progress, loss)
        self._saved = number

    def _tell_skipped(self, number: int, metrics: Metrics) -> None:
        """Names the rows of an update whose loss or gradient was not finite."""
        rows = self._run.batches().row_numbers(number - 1)
        self.logs.event(number, {"event": "update skipped", **metrics, "rows": rows})
        console.print(
            f"[yellow]Update {number} is skipped[/]: its loss or gradient is not finite; its rows are in events.jsonl"
        )

    def _give_up(self, number: int, state: TrainState) -> NoReturn:
        """Saves what there was before a streak of skipped updates, and ends."""
        bad = self._watch.bad_in_a_row
        before = number - bad
        self._save(before, state)
        self._end_here()
        rows = f"{self._run.workdir}/events.jsonl names their rows, for `python -m alpaca_jax.show` to show"
        raise Stopped(
            f"error: updates {before + 1} to {number} had a loss or gradient that is not finite; the state after "
            f"update {before} stands; {rows}",
            1,
        )

    def _end_here(self) -> None:
        with self._clock.part("saves"):
            self._store.wait()
        self.logs.finish()

    def _evaluate(self, number: int, state: TrainState) -> float | None:
        """The loss on held-out rows, the same rows each time; None where there are none."""
        if not self._evaluates:
            return None
        run, batch_rows = self._run, self._run.config.train.batch_rows
        with self._clock.part("compilation"):
            self._evaluation_step = self._evaluation_step or run.compile_evaluation()
        wanted = run.config.evaluation.rows or None
        sums = []
        with self._clock.part("evaluation"):
            ours = rows_of_this_process(batch_sharding(run.mesh))
            for batch in epoch_batches(run.dataset, "eval", batch_rows, *ours, rows=wanted):
                sums.append(self._evaluation_step(state.parameters, place_batch(run.mesh, batch)))
            losses, counts = zip(*jax.device_get(sums), strict=True)
        count = sum(map(float, counts))
        loss = sum(map(float, losses)) / max(count, 1.0)
        self.logs.evaluation(number, loss, int(count))
        return loss

    def _sample(self, number: int, state: TrainState) -> None:
        """Greedy answers to the configuration's instructions, in the type that the model is trained in."""
        run, options = self._run, self._run.config.samples
        if not options.instructions:
            return
        with self._clock.part("samples"):
            weights = _in_type(state.parameters, run.config.model)
            prompts = [Instruction(instruction, "", "") for instruction in options.instructions]
            sampling = Sampling(temperature=0.0, max_new_tokens=options.max_new_tokens)
            answers = self._generator.on(weights).answer(prompts, sampling)
        self.logs.samples(number, dict(zip(options.instructions, answers, strict=True)))


def _in_type(parameters: Parameters, options: ConfigDict) -> Parameters:
    """The parameters in the type to compute in; no copy where that is the one that they are kept in."""
    if options.compute_dtype == options.parameter_dtype:
        return parameters
    return jax.jit(cast, static_argnums=1)(parameters, options.compute_dtype)
