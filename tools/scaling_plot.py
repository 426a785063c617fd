"""The picture of how a step scales: for each number of devices and layout, what it computes and what it sends."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _FAINT = "#374151", "#9ca3af"
_COMPUTING, _SENDING, _STEP = "#cbd5e1", "#0f766e", "#b45309"
_TITLES = {
    "h100": "H100, 8 a machine, 50 GB/s each between machines",
    "tpu_v5p": "TPU v5p, 6.25 GB/s each between slices",
}
_GAP = 0.8  # between numbers of devices, in bars


def plot(path: Path, rows: list[dict[str, Any]]) -> None:
    """Draws a PNG.

    Args:
      path: where.
      rows: `chip`, `devices`, `mesh`, `computing`, `communication`, `step` (seconds) and `efficiency` each, the fewest
        devices first; those of one device are left out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chips = list(dict.fromkeys(row["chip"] for row in rows))
    figure = Figure(figsize=(6.4 * len(chips), 4.4), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    for number, (axes, chip) in enumerate(zip(figure.subplots(1, len(chips), squeeze=False)[0], chips, strict=True)):
        _panel(axes, [row for row in rows if row["chip"] == chip and row["devices"] > 1], with_words=number == 0)
        axes.set_title(_TITLES[chip], color=_INK, loc="left", fontsize=11)
    figure.supxlabel("seconds of a step, two rows of 2,048 a device", color=_INK, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _panel(axes: "Axes", rows: list[dict[str, Any]], with_words: bool) -> None:
    numbers = sorted({row["devices"] for row in rows})
    heights = [index + _GAP * numbers.index(row["devices"]) for index, row in enumerate(rows)]
    longest = max(max(row["step"], row["communication"]) for row in rows)
    for height, row in zip(heights, rows, strict=True):
        axes.barh(height, row["computing"], height=0.72, color=_COMPUTING)
        axes.barh(height, row["communication"], height=0.26, color=_SENDING)
        axes.plot([row["step"]] * 2, [height - 0.36, height + 0.36], color=_STEP, linewidth=2)
        axes.text(1.03 * longest, height, f"{row['efficiency']:.0%}", va="center", color=_STEP, weight="bold")
    axes.text(1.03 * longest, heights[0] - 0.85, "efficiency", color=_STEP, va="center")
    if with_words:
        first = rows[0]
        axes.text(0.02 * longest, heights[0] - 0.85, "communication", color=_SENDING, va="center")
        axes.text(0.9 * first["computing"], heights[0] - 0.85, "arithmetic", color=_INK, va="center", ha="right")
        axes.text(1.01 * first["step"], heights[0] - 0.85, "step", color=_STEP, va="center", ha="center")
    axes.set_yticks(heights, [row["mesh"] for row in rows])
    for number in numbers:
        places = [height for height, row in zip(heights, rows, strict=True) if row["devices"] == number]
        words = f"{number} devices"
        axes.text(
            -0.01 * longest, places[0] - 0.62, words, color=_INK, ha="right", va="center", weight="bold", fontsize=9
        )
    axes.set(xlim=(0, 1.22 * longest), ylim=(heights[-1] + 0.6, heights[0] - 1.3))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)
    axes.tick_params(axis="y", length=0, colors=_INK)
    axes.tick_params(axis="x", colors=_INK)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
