"""The picture of `evaluate diversity`: two rings of verbs and objects, and four histograms."""

import io
import math
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from alpaca_jax.evaluation.diversity import Diversity

VERBS, OBJECTS = 20, 4  # as many as the rings show
_WIDTH, _HEIGHT = 17, 11.2  # inches
_INNER, _MIDDLE, _OUTER = 0.34, 0.66, 1.0  # radii of the rings
_POINTS = 340  # of the outermost radius
_BINS = 40
_INK, _PALE, _BLUE, _RED = "#1f2430", "#6b7280", "#4c78a8", "#c8412f"
NEAR_DUPLICATE = 0.7  # ROUGE-L F above which self-instruct drops an instruction


def draw(diversity: "Diversity") -> tuple[bytes, str]:
    """The picture as a PNG file and as an SVG element that stands on its own, in which text is drawn as shapes."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=120, facecolor="white")
    FigureCanvasAgg(figure)
    _rings(figure.add_axes((0.015, 0.055, 0.575, 0.855)), diversity)
    figure.text(0.302, 0.028, diversity.legend, fontsize=10.5, color=_PALE, ha="center", va="center", parse_math=False)
    columns = figure.add_gridspec(4, 1, left=0.645, right=0.975, top=0.895, bottom=0.065, hspace=0.62)
    panels = [figure.add_subplot(columns[row]) for row in range(4)]
    for axes, (name, lengths) in zip(panels, diversity.lengths.items(), strict=False):
        _length_histogram(axes, name, lengths)
    _similarity_histogram(panels[3], diversity)

    # A glyph that the font lacks is drawn as a box, which says enough.
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": "alpaca_jax"}):
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        png, svg = io.BytesIO(), io.StringIO()
        figure.savefig(
            svg, format="svg", metadata={"Date": None}, bbox_inches=Bbox.from_extents(0, 0, _WIDTH, 0.92 * _HEIGHT)
        )
        # The page says the same in its own heading.
        figure.text(0.025, 0.957, diversity.title, fontsize=21, weight="bold", color=_INK, parse_math=False)
        figure.text(0.025, 0.925, diversity.subtitle, fontsize=12, color=_PALE, parse_math=False)
        figure.savefig(png, format="png")
    return png.getvalue(), svg.getvalue()[svg.getvalue().index("<svg") :]


def _rings(axes: Any, diversity: "Diversity") -> None:
    """Verbs in the inner ring, the objects of each in the outer one; arcs as the roots of the counts.

    In proportion to the counts themselves, half of the objects would be too narrow for their names.
    """
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set(xlim=(-1.02, 1.02), ylim=(-1.02, 1.02))
    verbs = diversity.top_verbs
    if not verbs:
        axes.text(0, 0, "no instruction has a root verb\nwith a direct object", ha="center", va="center", color=_PALE)
        return
    for verb, start, end, colour in _arcs([(verb, verb.count) for verb in verbs], 90.0, -360.0):
        _wedge(axes, _INNER, _MIDDLE, start, end, colour)
        _radial_label(axes, (_INNER, _MIDDLE), (start, end), f"{verb.name} {verb.count:,}", 12.5, bold=True)
        objects = verb.objects[:OBJECTS]
        for (name, count), first, last, _ in _arcs([(pair, pair[1]) for pair in objects], start, end - start):
            _wedge(axes, _MIDDLE, _OUTER, first, last, _lighter(colour))
            _radial_label(axes, (_MIDDLE, _OUTER), (first, last), f"{name} {count:,}", 10)
    axes.text(0, 0, diversity.centre, ha="center", va="center", fontsize=12.5, color=_INK, linespacing=1.5)


def _arcs(parts: list[tuple[Any, int]], start: float, extent: float) -> Iterator[tuple[Any, float, float, Any]]:
    """Each part with its share of the arc, in degrees, and a colour by its place."""
    total = sum(math.sqrt(count) for _, count in parts)
    for number, (part, count) in enumerate(parts):
        end = start + extent * math.sqrt(count) / total
        yield part, start, end, _colour(number / len(parts))
        start = end


def _colour(turn: float) -> np.ndarray:
    """A colour of even lightness, RGB [3], by its place on the wheel of hues, 0 to 1.

    From OKLCH (lightness 0.80, chroma 0.095) by Ottosson's matrices (2020, "A perceptual color space for image
    processing").
    """
    angle = 2 * math.pi * (turn + 0.06)
    lab = np.array([0.80, 0.095 * math.cos(angle), 0.095 * math.sin(angle)])
    to_lms = np.array(
        [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.291485548]]
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.707614701],
        ]
    )
    linear = np.clip(to_rgb @ (to_lms @ lab) ** 3, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _lighter(colour: np.ndarray) -> np.ndarray:
    return 1 - 0.45 * (1 - colour)


def _wedge(axes: Any, inner: float, outer: float, start: float, end: float, colour: np.ndarray) -> None:
    from matplotlib.patches import Wedge

    axes.add_patch(
        Wedge((0, 0), outer, end, start, width=outer - inner, facecolor=colour, edgecolor="white", linewidth=1.2)
    )


def _radial_label(
    axes: Any, radii: tuple[float, float], arc: tuple[float, float], text: str, size: float, bold: bool = False
) -> None:
    """A text along the radius, the right way up; smaller where the arc is narrow or the text is long."""
    radius, middle = sum(radii) / 2, sum(arc) / 2
    height = abs(arc[1] - arc[0]) * math.pi / 180 * radius * _POINTS
    width = (radii[1] - radii[0]) * _POINTS
    turned = middle % 360
    axes.text(
        radius * math.cos(math.radians(middle)),
        radius * math.sin(math.radians(middle)),
        text,
        rotation=turned + 180 if 90 < turned < 270 else turned,
        rotation_mode="anchor",
        ha="center",
        va="center",
        fontsize=min(size, 0.95 * height, 1.45 * width / len(text)),  # a letter is about 0.65 of its size wide
        weight="bold" if bold else "normal",
        color=_INK,
        parse_math=False,
    )


def _plain(axes: Any, title: str, note: str, xlabel: str) -> None:
    axes.set_title(title, loc="left", fontsize=13, weight="bold", color=_INK)
    axes.set_title(note, loc="right", fontsize=10.5, color=_PALE)
    axes.set_xlabel(xlabel, fontsize=10.5, color=_PALE)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_PALE)
    axes.tick_params(colors=_PALE, labelsize=10, left=False)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)


def _length_histogram(axes: Any, name: str, lengths: np.ndarray) -> None:
    """Lengths up to the 99th percentile; how many are longer, or empty, is said in words."""
    present = lengths[lengths > 0]
    empty = len(lengths) - len(present)
    notes = [f"{empty:,} empty"] if empty else []
    if len(present):
        limit = max(int(np.percentile(present, 99)), 1)
        step = max(1, math.ceil(limit / _BINS))
        axes.hist(present[present <= limit], bins=np.arange(1, limit + step + 1, step) - 0.5, color=_BLUE, rwidth=0.9)
        notes.append(f"median {np.median(present):,.0f}, longest {present.max():,}")
        if beyond := int((present > limit).sum()):
            notes.append(f"{beyond:,} beyond the axis")
    _plain(axes, name, "; ".join(notes), "words")


def _similarity_histogram(axes: Any, diversity: "Diversity") -> None:
    similarity = diversity.similarity
    _, edges, patches = axes.hist(similarity, bins=np.linspace(0, 1, _BINS + 1), color=_BLUE, rwidth=0.9)
    for edge, patch in zip(edges, patches, strict=False):
        if edge >= NEAR_DUPLICATE - 1e-9:
            patch.set_facecolor(_RED)
    axes.axvline(NEAR_DUPLICATE, color=_RED, linewidth=1, linestyle="--")
    above = int((similarity > NEAR_DUPLICATE).sum())
    note = f"median {np.median(similarity):.2f}; {above:,} above {NEAR_DUPLICATE}, near-duplicates"
    _plain(axes, "Likeness to seeds", note, f"ROUGE-L F with the most similar one of {diversity.seeds}")
