"""What a run writes down: JSON lines, TensorBoard events, the loss curve."""

from typing import Any

from alpaca_jax.training.events import Events
from alpaca_jax.training.plot import plot_loss
from alpaca_jax.training.records import StepLog
from alpaca_jax.training.run import Run
from alpaca_jax.training.throughput import model_flops, peak_flops


class NoLogs:
    """The logs of all processes but the first, which writes for them."""

    note = ""

    def update(self, step: int, metrics: dict[str, float], seconds: float) -> None:
        """Nothing."""

    def evaluation(self, step: int, loss: float, target_tokens: int) -> None:
        """Nothing."""

    def samples(self, step: int, answers: dict[str, str]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Logs:
    """The files of a run that grow with it; all of them agree with the checkpoint that it goes on from.

    `metrics.jsonl` (an object an update), `evaluations.jsonl`, `samples.jsonl`, `tensorboard/`, and, in the end,
    `loss.png`.
    """

    def __init__(self, run: Run, resume_at: int):
        self._run = run
        self._peak_flops = peak_flops()
        self._metrics = StepLog(run.workdir / "metrics.jsonl", resume_at)
        self._evaluations = StepLog(run.workdir / "evaluations.jsonl", resume_at)
        self._samples = StepLog(run.workdir / "samples.jsonl", resume_at)
        self._events = Events(run.workdir / "tensorboard", resume_at)
        self.note = ""

    def update(self, step: int, metrics: dict[str, float], seconds: float) -> None:
        """Writes the line of an update.

        Args:
          step: its number.
          metrics: what the train step gave.
          seconds: how long it took, the wait for its batch included.
        """
        flops = model_flops(self._run.definition.config, metrics["tokens"], metrics["attended"])
        line = {
            "loss": metrics["loss"],
            "grad_norm": metrics["grad_norm"],
            "learning_rate": float(self._run.schedule(step - 1)),
            "target_tokens": int(metrics["target_tokens"]),
            "tokens": int(metrics["tokens"]),
            "tokens_per_second": metrics["tokens"] / seconds,
            "mfu": flops / seconds / self._peak_flops if self._peak_flops else None,
        }
        self._metrics.write(step, line)
        self._events.write(step, {f"train/{name}": value for name, value in line.items() if value is not None})
        self.note = f"loss {metrics['loss']:.3f}  {line['tokens_per_second']:,.0f} tokens/s"

    def evaluation(self, step: int, loss: float, target_tokens: int) -> None:
        """Writes the loss on held-out rows after an update."""
        self._evaluations.write(step, {"eval_loss": loss, "target_tokens": target_tokens})
        self._events.write(step, {"eval/loss": loss})

    def samples(self, step: int, answers: dict[str, str]) -> None:
        """Writes the answers after an update, by instruction."""
        self._samples.write(step, {"answers": answers})

    def close(self) -> None:
        """Draws the loss curve and closes the files."""
        for file in (self._metrics, self._evaluations, self._samples, self._events):
            file.close()
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
