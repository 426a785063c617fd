"""A report as Markdown, and as one HTML page that needs nothing beside it."""

import base64
from pathlib import Path
from typing import Any

from alpaca_jax.evaluation.plots import counts_plot, ranking_plot, rates_plot

_TEMPLATES = Path(__file__).with_name("templates")
_MOST_MATCHES = 50  # of those listed; report.json has all
_MOST_CATEGORIES = 25  # in the picture; the table has all


def as_markdown(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    return _render("report.md", report, escape=False)


def as_html(report: dict[str, Any]) -> str:
    """The report as a page: pictures inside, nothing to fetch, and no script."""
    plots = []
    for one in report["comparisons"]:
        rows = [("all votes", one)]
        if one["length_controlled"]["win_rate"] is not None:
            rows.append(("at equal length", one["length_controlled"] | {"votes": one["votes"]}))
        if len(one["by_annotator"]) > 1:
            rows += [(row["annotator"], row) for row in one["by_annotator"]]
        plots.append(
            {
                "counts": _picture(counts_plot(one)),
                "all": _picture(rates_plot(rows)),
                "category": _picture(
                    rates_plot([(row["category"], row) for row in one["by_category"][:_MOST_CATEGORIES]])
                ),
                "length": _picture(rates_plot([(row["length"], row) for row in one["by_length"]])),
            }
        )
    ranking = _picture(ranking_plot(report["ranking"]["models"])) if "ranking" in report else ""
    return _render("report.html", report, escape=True, plots=plots, ranking_plot=ranking)


def _render(name: str, report: dict[str, Any], *, escape: bool, **more: Any) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=escape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"rate": _rate, "interval": _interval, "p": _p, "cell": _cell}
    return environment.get_template(f"{name}.jinja").render(report=report, most_matches=_MOST_MATCHES, **more)


def _picture(svg: bytes | None) -> str:
    """A picture as an address that holds it; empty where there is none."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}" if svg else ""


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}%"


def _interval(ends: list[float] | None) -> str:
    return "–" if ends is None else f"{ends[0]:.1f}–{ends[1]:.1f}%"


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.0001" if value < 0.0001 else f"{value:.2g}"


def _cell(text: str) -> str:
    """A text from outside in a cell of a Markdown table: one short line, with nothing that Markdown or HTML acts on."""
    line = " ".join(str(text).split())
    line = line if len(line) <= 120 else f"{line[:119]}…"
    for mark in "\\`*_[]|<>#":
        line = line.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return line
