"""What a run writes down: JSON lines, TensorBoard events, the loss curve."""

import json
from typing import Any

import jax
import jax.numpy as jnp

from alpaca_jax.training.clock import Timing
from alpaca_jax.training.events import Events
from alpaca_jax.training.plot import plot_loss
from alpaca_jax.training.records import StepLog
from alpaca_jax.training.run import Run
from alpaca_jax.training.throughput import device_memory_gib, model_flops, peak_flops
from alpaca_jax.training.wandb_sink import WandbSink


class NoLogs:
    """The logs of all processes but the first, which writes for them."""

    note = ""

    def update(self, step: int, metrics: dict[str, float], timing: Timing, remarkable: dict[str, bool]) -> None:
        """Nothing."""

    def event(self, step: int, values: dict[str, Any]) -> None:
        """Nothing."""

    def evaluation(self, step: int, loss: float, target_tokens: int) -> None:
        """Nothing."""

    def samples(self, step: int, answers: dict[str, str]) -> None:
        """Nothing."""

    def metrics(self) -> list[dict[str, Any]]:
        """None."""
        return []

    def close(self) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""


class Logs:
    """The files of a run that grow with it; all of them agree with the checkpoint that it goes on from.

    `metrics.jsonl` (an object an update), `evaluations.jsonl`, `samples.jsonl`, `events.jsonl` (updates that were
    skipped), `tensorboard/`, and, in the end, `loss.png`. The JSON lines are the record: where they cannot be written,
    the run ends. TensorBoard and Weights & Biases show the same numbers, and a run goes on without them.
    """

    def __init__(self, run: Run, resume_at: int):
        self._run = run
        self._peak_flops = peak_flops()
        # All at once: asked for one by one, each would wait behind the update that the devices are busy with.
        self._learning_rates = jax.device_get(jax.jit(run.schedule)(jnp.arange(run.last_update)))
        self._metrics = StepLog(run.workdir / "metrics.jsonl", resume_at)
        self._evaluations = StepLog(run.workdir / "evaluations.jsonl", resume_at)
        self._samples = StepLog(run.workdir / "samples.jsonl", resume_at)
        self._faults = StepLog(run.workdir / "events.jsonl", resume_at)
        self._events = Events(run.workdir / "tensorboard", resume_at)
        self._wandb: WandbSink | None = None
        if (project := run.config.logging.wandb_project) and resume_at < run.last_update:
            config = json.loads(run.config.to_json_best_effort())
            self._wandb = WandbSink(run.workdir, project, config, resume_at)
        self.note = ""

    def update(self, step: int, metrics: dict[str, float], timing: Timing, remarkable: dict[str, bool]) -> None:
        """Writes the line of an update.

        Besides what the train step gave: `tokens_per_second` and `target_tokens_per_second` (all tokens but padding;
        trained ones), `mfu` (see `throughput.model_flops`; null for a chip whose peak is not known),
        `device_memory_gib` (the most that any device of this process has held so far; null where it cannot be asked),
        and the times of `Timing`.

        Args:
          step: its number.
          metrics: what the train step gave.
          timing: how long it took.
          remarkable: what `NumberWatch` found.
        """
        flops = model_flops(self._run.definition.config, metrics["tokens"], metrics["attended"])
        speed = flops / timing.seconds
        line = {
            "loss": metrics["loss"],
            "grad_norm": metrics["grad_norm"],
            "learning_rate": float(self._learning_rates[step - 1]),
            "target_tokens": int(metrics["target_tokens"]),
            "tokens": int(metrics["tokens"]),
            "tokens_per_second": metrics["tokens"] / timing.seconds,
            "target_tokens_per_second": metrics["target_tokens"] / timing.seconds,
            "mfu": speed / self._peak_flops if self._peak_flops else None,
            "device_memory_gib": device_memory_gib(),
            "input_wait_seconds": timing.input_wait_seconds,
            "seconds": timing.seconds,
            "goodput": timing.goodput,
        } | remarkable
        self._metrics.write(step, line)
        self._show(step, {f"train/{name}": value for name, value in line.items()})
        self.note = f"loss {metrics['loss']:.3f}  {line['tokens_per_second']:,.0f} tokens/s"
        if line["mfu"] is not None:
            self.note += f"  MFU {line['mfu']:.0%}"

    def event(self, step: int, values: dict[str, Any]) -> None:
        """Writes what went wrong in an update."""
        self._faults.write(step, values)

    def evaluation(self, step: int, loss: float, target_tokens: int) -> None:
        """Writes the loss on held-out rows after an update."""
        self._evaluations.write(step, {"eval_loss": loss, "target_tokens": target_tokens})
        self._show(step, {"eval/loss": loss})

    def samples(self, step: int, answers: dict[str, str]) -> None:
        """Writes the answers after an update, by instruction."""
        self._samples.write(step, {"answers": answers})
        self._events.write_texts(step, {f"samples/{instruction}": answer for instruction, answer in answers.items()})

    def close(self) -> None:
        """Closes the files of JSON lines and of TensorBoard, if they are open."""
        for file in (self._metrics, self._evaluations, self._samples, self._faults, self._events):
            file.close()

    def finish(self) -> None:
        """Closes all, and draws the loss curve."""
        self.close()
        if self._wandb is not None:
            self._wandb.close()
        if self.metrics():
            name = (
                f"{self._run.config.model.preset}, {self._run.definition.config.num_parameters / 1e6:,.1f} M parameters"
            )
            plot_loss(self._run.workdir / "loss.png", self.metrics(), self._evaluations.read(), name)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of all updates so far."""
        return self._metrics.read()

    def all_evaluations(self) -> list[dict[str, Any]]:
        """The lines of all evaluations so far."""
        return self._evaluations.read()

    def all_samples(self) -> list[dict[str, Any]]:
        """The lines of all sample answers so far."""
        return self._samples.read()

    def _show(self, step: int, values: dict[str, float | None]) -> None:
        known = {name: value for name, value in values.items() if value is not None}
        self._events.write(step, known)
        if self._wandb is not None:
            self._wandb.write(step, known)
