"""The pictures of a report, as SVG."""

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _WIN, _TIE, _LOSS = "#374151", "#0f766e", "#9ca3af", "#b45309"
_LONGEST_LABEL = 40


def counts_plot(rates: dict[str, Any]) -> bytes | None:
    """Wins, ties and losses as one bar; None without votes."""
    if not rates["votes"]:
        return None
    with _axes(8, 1.1) as (axes, picture):
        left = 0
        for name, colour in (("wins", _WIN), ("ties", _TIE), ("losses", _LOSS)):
            count = rates[name]
            axes.barh([0], [count], left=left, color=colour, height=0.6)
            if count:
                axes.text(left + count / 2, 0, f"{count}", ha="center", va="center", color="white", weight="bold")
                axes.text(left + count / 2, 0.55, name, ha="center", va="center", color=colour)
            left += count
        axes.set(xlim=(0, left), ylim=(-0.4, 0.8))
        axes.axis("off")
    return picture.getvalue()


def rates_plot(rows: Sequence[tuple[str, dict[str, Any]]]) -> bytes | None:
    """Win rates with their intervals, one above another, against the line of a half; None without any.

    Args:
      rows: a label, and `win_rate`, `ci95`, `votes`.
    """
    rows = [(label, row) for label, row in rows if row["win_rate"] is not None]
    if not rows:
        return None
    with _axes(8, 0.8 + 0.32 * len(rows)) as (axes, picture):
        axes.axvline(50, color=_TIE, linewidth=1, linestyle="--")
        for place, (_, row) in enumerate(rows):
            low, high = row["ci95"]
            colour = _WIN if low > 50 else _LOSS if high < 50 else _INK
            axes.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="round")
            axes.plot([row["win_rate"]], [place], "o", color=colour, markersize=6)
            axes.text(102, place, f"{row['win_rate']:.1f}%   n = {row['votes']}", va="center", color=_INK)
        axes.set(xlim=(0, 100), ylim=(len(rows) - 0.5, -0.5), xlabel="win rate, % (95% interval)")
        axes.set_yticks(range(len(rows)), [_label(label) for label, _ in rows])
        _plain(axes)
    return picture.getvalue()


def ranking_plot(models: Sequence[dict[str, Any]]) -> bytes:
    """Strengths of models on Elo's scale, with their intervals."""
    with _axes(8, 0.8 + 0.32 * len(models)) as (axes, picture):
        for place, one in enumerate(models):
            if one["elo_ci95"]:
                axes.plot(one["elo_ci95"], [place, place], color=_INK, linewidth=2, solid_capstyle="round")
            axes.plot([one["elo"]], [place], "o", color=_WIN, markersize=6)
        axes.set(ylim=(len(models) - 0.5, -0.5), xlabel="Bradley–Terry strength, Elo's scale (95% interval)")
        axes.set_yticks(range(len(models)), [_label(one["model"]) for one in models])
        _plain(axes)
    return picture.getvalue()


@contextlib.contextmanager
def _axes(width: float, height: float) -> "Iterator[tuple[Axes, io.BytesIO]]":
    """Axes to draw on, and the SVG, which is there when the block has ended."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    picture = io.BytesIO()
    style = {"text.parse_math": False, "svg.hashsalt": "alpaca_jax", "font.size": 10, "axes.edgecolor": _TIE}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Names in scripts that the font has not got are boxes in the picture, and right in the tables.
        warnings.filterwarnings("ignore", message=".*Glyph .* missing", category=UserWarning)
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure.subplots(), picture
        figure.savefig(picture, format="svg", transparent=True, metadata={"Date": None})


def _plain(axes: "Axes") -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0, colors=_INK)
    axes.tick_params(axis="x", colors=_INK)
    axes.grid(axis="x", alpha=0.25)


def _label(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_LABEL else f"{line[: _LONGEST_LABEL - 1]}…"
