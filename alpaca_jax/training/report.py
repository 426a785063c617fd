"""What a run says on the terminal before its first update and after its last."""

import jax
from rich.table import Table

from alpaca_jax.parallel.sharding import sharding_table
from alpaca_jax.support.progress import console
from alpaca_jax.training.clock import Clock, in_words
from alpaca_jax.training.logs import Logs
from alpaca_jax.training.optimiser import batch_rules
from alpaca_jax.training.run import Run


def announce(run: Run, start: int) -> None:
    """Prints the resolved configuration, where each parameter lies, and how large an update is."""
    config, model = run.config, run.definition.config
    console.print("[bold]configuration[/]")
    for section, values in config.items():
        settings = ", ".join(f"{key}={value!r}" for key, value in values.items() if key != "instructions")
        console.print(f"  {section}: {settings}", markup=False)
    table = Table("parameter", "shape", "axes", "over the mesh", box=None, title_justify="left", pad_edge=False)
    for name, shape, axes, spec in sharding_table(run.definition.logical_axes, run.definition.shapes):
        table.add_row(name, " × ".join(map(str, shape)), ", ".join(axes), ", ".join(str(axis or "·") for axis in spec))
    console.print(table)
    mesh = " × ".join(f"{axis} {size}" for axis, size in run.mesh.shape.items())
    console.print(
        f"{model.num_parameters / 1e6:,.1f} M parameters on {jax.device_count()} × {jax.devices()[0].device_kind} "
        f"({mesh}); {run.scheduled_updates} updates in {config.train.epochs:g} epochs"
    )
    for line in batch_rules(config, run.dataset.seq_len, run.dataset.metadata["counts"]):
        console.print(line, markup=False)
    console.print(f"attention: {run.attention.kernel.name} ({run.attention.reason})", markup=False)
    if config.checkpoint.every >= run.last_update:
        console.print(
            f"[yellow]saved only after the last update[/]: config.checkpoint.every is {config.checkpoint.every}, and "
            f"there are {run.last_update} updates; a crash before costs all of them"
        )
    if start >= run.last_update:
        console.print(f"[green]This run is done: {start} updates.[/] A new one needs another --workdir.")
    elif start:
        console.print(f"[green]Going on after update {start}[/], the newest that was saved.")


def conclude(run: Run, logs: Logs, best: int | None, clock: Clock) -> None:
    """Prints the first sample answers and the last, the losses, where the time went and where everything lies.

    Args:
      run: the run.
      logs: what it wrote down.
      best: the update with the lowest held-out loss of those saved, if any was evaluated.
      clock: the time so far.
    """
    samples, evaluations, metrics = logs.all_samples(), logs.all_evaluations(), logs.metrics()
    if samples:
        shown = samples if len(samples) < 3 else [samples[0], samples[-1]]
        table = Table(title="Greedy answers", show_lines=True, expand=True)
        for heading in ("instruction", *(f"after update {sample['step']}" for sample in shown)):
            table.add_column(heading, ratio=1, overflow="fold")
        for instruction in shown[-1]["answers"]:
            answers = (_one_line(sample["answers"].get(instruction, "")) for sample in shown)
            table.add_row(instruction, *answers)
        console.print(table, markup=False)
    if len(evaluations) > 1:
        first, last = evaluations[0], evaluations[-1]
        console.print(
            f"held-out loss: {_number(first['eval_loss'])} after update {first['step']}, "
            f"{_number(last['eval_loss'])} after update {last['step']}"
        )
    if metrics:
        begun, ended = (_number(line["loss"]) for line in (metrics[0], metrics[-1]))
        console.print(f"training loss: {begun} at update 1, {ended} at {metrics[-1]['step']}")
    if best is not None:
        console.print(f"lowest held-out loss of a save: after update {best}, --checkpoint={run.workdir}/best")
    console.print(in_words(clock.seconds()))
    console.print(
        f"in {run.workdir}: metrics.jsonl, loss.png, tensorboard/, run.json, checkpoints/"
        + (", samples.jsonl" if samples else "")
        + (", evaluations.jsonl" if evaluations else "")
    )


def _number(value: float | None) -> str:
    return "not a finite number" if value is None else f"{value:.4f}"


def _one_line(text: str, limit: int = 160) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
