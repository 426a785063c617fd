"""The figures of `tools/bench_train.py`, as a table, as JSON lines and as a picture."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alpaca_jax.model.config import ModelConfig
from alpaca_jax.support.files import write_text_atomic
from tools.bench_train_driver import Entrant

# How close first losses must be to be called the same, in nats.
AGREEMENT = 1e-3


def figures(entrants: Sequence[Entrant], work: dict[str, Any], model: ModelConfig) -> list[dict[str, Any]]:
    """A line for each entrant, ours first.

    Args:
      entrants: after their turns; the first is ours, with which the others are compared.
      work: of each update, `tokens` (not padding) and `attended` (pairs of a token and one that it sees).
      model: its sizes.
    """
    ours = entrants[0]
    return [_line(entrant, ours, work, model) for entrant in entrants]


def _line(entrant: Entrant, ours: Entrant, work: dict[str, Any], model: ModelConfig) -> dict[str, Any]:
    from alpaca_jax.parallel.chips import chip_of
    from alpaca_jax.training.throughput import model_flops

    line: dict[str, Any] = {"who": entrant.name, "dtype": entrant.dtype, "absent": entrant.absent or None}
    if entrant.absent:
        return line
    spans = [range(1 + turn * len(times), 1 + (turn + 1) * len(times)) for turn, times in enumerate(entrant.turns)]
    seconds = [sum(times) for times in entrant.turns]
    speeds = [sum(work["tokens"][k] for k in span) / time for span, time in zip(spans, seconds, strict=True)]
    # Of their own round both did the same updates: what slowed the machine then slowed both.
    ratios = [theirs / sum(mine) for theirs, mine in zip(seconds, ours.turns, strict=True)]
    chip, devices = chip_of(ours.facts.get("device", "")), ours.facts.get("devices", 1)
    flops = [
        sum(model_flops(model, work["tokens"][k], work["attended"][k]) for k in span) / time
        for span, time in zip(spans, seconds, strict=True)
    ]
    return line | {
        "tokens_per_second": statistics.median(speeds),
        "tokens_per_second_of_rounds": speeds,
        "ours_over_this": statistics.median(ratios),
        "ours_over_this_of_rounds": ratios,
        "mfu": statistics.median(flops) / chip.flops / devices if chip else None,
        "peak_gib": entrant.peak_bytes / 2**30,
        "seconds_to_first_update": entrant.first_seconds,
        "first_loss": entrant.losses[0],
        "first_loss_differs_by": abs(entrant.losses[0] - ours.losses[0]),
        "losses": entrant.losses,
        "facts": entrant.facts,
    }


def print_table(lines: Sequence[dict[str, Any]]) -> None:
    """The table, on standard error as everything that is said along the way."""
    from rich.table import Table

    from alpaca_jax.support.progress import console

    with_mfu = any(line.get("mfu") for line in lines)
    columns = ["who", "type", "real tokens/s", "ours is × as fast", "GiB", "first update", "first loss"]
    columns.append(f"off by (! > {AGREEMENT:g})")
    table = Table(*columns, *(["MFU"] if with_mfu else []), box=None, pad_edge=False)
    for line in lines:
        if line["absent"]:
            continue
        cells = [
            line["who"],
            line["dtype"],
            _median_and_range(line["tokens_per_second_of_rounds"], "{:,.1f}"),
            _median_and_range(line["ours_over_this_of_rounds"], "{:.2f}"),
            f"{line['peak_gib']:.2f}",
            f"{line['seconds_to_first_update']:.1f} s",
            f"{line['first_loss']:.5f}",
            f"{line['first_loss_differs_by']:.1e}" + ("" if line["first_loss_differs_by"] <= AGREEMENT else " !"),
        ]
        table.add_row(*cells, *([f"{line['mfu']:.1%}"] if line["mfu"] else []))
    console.print(table, markup=False)
    for line in lines:
        if line["absent"]:
            console.print(f"no figures of {line['who']}, {line['dtype']}: {line['absent']}", markup=False)


def _median_and_range(values: Sequence[float], form: str) -> str:
    low, middle, high = (form.format(f(values)) for f in (min, statistics.median, max))
    return middle if len(values) == 1 else f"{middle} ({low}–{high})"


def write_report(folder: Path, setting: dict[str, Any], lines: Sequence[dict[str, Any]]) -> None:
    """`results.jsonl`, the setting and then a line for each entrant, and `losses.png`, their losses beside each other.

    Raises:
      UserError: the folder cannot be written.
    """
    write_text_atomic(folder / "results.jsonl", "".join(json.dumps(line) + "\n" for line in [setting, *lines]))
    _draw([line for line in lines if not line["absent"]], folder / "losses.png")


def _draw(lines: Sequence[dict[str, Any]], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for line, style in zip(lines, ("-", "--", "-.", ":") * len(lines), strict=False):
        axes.plot(range(1, 1 + len(line["losses"])), line["losses"], style, label=f"{line['who']}, {line['dtype']}")
    axes.set(xlabel="update", ylabel="loss (nats a trained token)", title="the same weights, records and updates")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)
