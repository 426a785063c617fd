"""What a reader sees of a whole loop: its figures, what the model wrote, the pictures."""

from collections.abc import Sequence
from pathlib import Path

from alpaca_jax.support.files import read_json_lines
from tools.stages import Figures, Stage, in_words

_SHOWN = ("email_1", "science_1")  # tasks of the evaluation set
_PICTURES = {
    "tuned/loss.png": "the loss of the training",
    "pictures/report.png": "the report",
    "pictures/page_light.png": "the page",
    "pictures/page_dark.png": "the page in the dark",
    "pictures/page_phone.png": "the page on a phone",
    "pictures/page_refusal.png": "a word that the filter stops",
}
_LONGEST = 300  # characters of a text that is shown


def summary(folder: Path, stages: Sequence[Stage], figures: dict[str, Figures]) -> str:
    """A page in Markdown.

    Args:
      folder: of the whole loop.
      stages: in their order.
      figures: of each, with its seconds.
    """
    seconds = sum(one["seconds"] for one in figures.values())
    lines = [f"# The whole loop: {len(stages)} stages, {seconds / 60:.0f} min", ""]
    lines += ["| stage | seconds | made | figures |", "|---|--:|---|---|"]
    for stage in stages:
        found = {name: value for name, value in figures[stage.name].items() if name not in ("seconds", *_TEXTS)}
        made = ", ".join(f"`{name}`" for name in stage.makes)
        lines.append(f"| {stage.name} | {figures[stage.name]['seconds']:.0f} | {made} | {in_words(found)} |")
    lines += ["", "A stage that was killed has the seconds of its last start.", "", "## What the model wrote", ""]
    lines += [f"- **{name}**: {text}" for name, text in _texts(folder, figures)]
    there = {name: text for name, text in _PICTURES.items() if (folder / name).exists()}
    lines += ["", "## Pictures", "", *(f"![{text}]({name})\n" for name, text in there.items())]
    return "\n".join(lines) + "\n"


_TEXTS = ("answer", "refusal")


def _texts(folder: Path, figures: dict[str, Figures]) -> list[tuple[str, str]]:
    """Texts with what each is."""
    _, new = next(read_json_lines(folder / "clean.jsonl"))
    texts = [("a new instruction", new["instruction"]), ("its answer", new["output"])]
    for name, time in (("base", "before"), ("tuned", "after")):
        for _, answer in read_json_lines(folder / f"answers_{name}.jsonl"):
            if answer["id"] in _SHOWN:
                texts.append((f"{answer['id']}, {time}", answer["output"]))
    texts += [("on the page", figures["page"]["answer"]), ("to a word of the list", figures["page"]["refusal"])]
    return [(name, _short(text)) for name, text in texts]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
