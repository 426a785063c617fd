"""The loss curve as a picture."""

from pathlib import Path
from typing import Any

import numpy as np


def plot_loss(path: Path, metrics: list[dict[str, Any]], evaluations: list[dict[str, Any]], title: str) -> None:
    """Draws training loss (each update and smoothed) and evaluation loss against updates, as a PNG.

    Args:
      path: the picture.
      metrics: lines with `step` and `loss`.
      evaluations: lines with `step` and `eval_loss`; may be empty.
      title: above the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    steps = [line["step"] for line in metrics]
    loss = np.array([line["loss"] for line in metrics], float)
    axes.plot(steps, loss, color="tab:blue", alpha=0.3, linewidth=1, label="each update")
    axes.plot(steps, _smooth(loss), color="tab:blue", linewidth=2, label="training, smoothed")
    if evaluations:
        points = [(line["step"], line["eval_loss"]) for line in evaluations]
        axes.plot(*zip(*points, strict=True), "o-", color="tab:orange", label="held-out records")
    axes.set(xlabel="update", ylabel="loss (nats a trained token)", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)


def _smooth(values: np.ndarray) -> np.ndarray:
    """A centred mean over a tenth of the run, narrower at the ends, so that it starts and ends where the run does."""
    half = len(values) // 20
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(half, np.minimum(index, len(values) - 1 - index))
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)
