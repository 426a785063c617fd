"""The page of `evaluate diversity`: one file that holds its picture and asks for nothing else."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from alpaca_jax.evaluation.diversity import Diversity

_TEMPLATE = Path(__file__).with_name("templates") / "diversity.html.jinja"


def render(diversity: "Diversity", svg: str) -> str:
    """The page; texts from the instruction file are escaped, the picture is put in as it is."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    lengths = [_row(name, words) for name, words in diversity.lengths.items()]
    return template.render(d=diversity, svg=Markup(svg), lengths=lengths) + "\n"


def _row(name: str, words: np.ndarray) -> dict[str, Any]:
    """A row of the table of lengths; texts that are empty do not count."""
    present = words[words > 0]
    if not len(present):
        return {"name": name, "cells": ["0", "–", "–", "–", "–", "–"]}
    figures = [present.min(), np.median(present), present.mean(), np.percentile(present, 99), present.max()]
    cells = [f"{len(present):,}", *(f"{figure:,.0f}" for figure in figures)]
    return {"name": name, "cells": cells}
