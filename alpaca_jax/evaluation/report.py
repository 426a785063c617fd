"""Files of votes to a report: one dictionary of figures, and it as Markdown, JSON and one page with plots."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alpaca_jax.evaluation import statistics
from alpaca_jax.evaluation.comparisons import Comparison, Vote, read_votes
from alpaca_jax.evaluation.contamination import contamination
from alpaca_jax.evaluation.ranking import rank
from alpaca_jax.support.files import check_folder_place, write_json_atomic, write_text_atomic


def make_report(
    votes: Sequence[Path],
    *,
    pairs: Sequence[Path] = (),
    training: Sequence[Path] = (),
    out: Path | None = None,
) -> dict[str, Any]:
    """Reads votes, computes what they say, and writes the report into a folder where one is given.

    Args:
      votes: files of votes, or AlpacaEval's lists of annotations.
      pairs: pair files that the votes cannot find by themselves.
      training: training data to hold against the questions that were voted on.
      out: gets `report.md`, `report.json` and `report.html`.

    Returns:
      `unit` (of all rates: percent), `comparisons` (see `_compared`), `ranking` (of three models or more),
      `contamination` (with `training`). Where there is one comparison, its figures also stand at the top.

    Raises:
      UserError: votes, pairs or training data that cannot be read.
    """
    if out:
        check_folder_place(out)
    comparisons = read_votes(votes, pairs)
    compared = [_compared(comparison) for comparison in comparisons]
    report: dict[str, Any] = {"unit": "percent", **(compared[0] if len(compared) == 1 else {}), "comparisons": compared}
    if len({name for one in comparisons for name in (one.model, one.baseline)}) > 2:
        report["ranking"] = rank(comparisons)
    if training:
        questions = {verdict.unit.id: verdict.unit.question for one in comparisons for verdict in one.verdicts}
        found = contamination(training, questions)
        for match in found["matches"]:
            match["question"] = match["question"].splitlines()[0]
        report["contamination"] = found
    if out:
        from alpaca_jax.evaluation.rendering import as_html, as_markdown

        # Made before any is written, so that a fault in one leaves none.
        texts = {"report.md": as_markdown(report), "report.html": as_html(report)}
        for name, text in texts.items():
            write_text_atomic(out / name, text)
        write_json_atomic(out / "report.json", report)
    return report


def _compared(comparison: Comparison) -> dict[str, Any]:
    """All that is said of two models.

    Returns:
      `model`, `baseline`, the counts and rates of `statistics.rates`; `identical` (questions with the same answer from
      both, which none of the other figures counts) and `win_rate_with_identical` (each of them as a tie, each unit
      counting once); `length_controlled`, `agreement`, `position`, `by_category`, `by_length`, `by_annotator`;
      `mean_length` of both.
    """
    votes = comparison.votes
    identical = sum(len(names) for names in comparison.identical.values())
    units = {vote.unit.id: vote.unit for vote in votes}.values()
    lengths = {
        "model": sum(unit.model_length for unit in units) / len(units),
        "baseline": sum(unit.baseline_length for unit in units) / len(units),
    }
    names = list(dict.fromkeys(vote.annotator for vote in votes))
    return {
        "model": comparison.model,
        "baseline": comparison.baseline,
        **statistics.rates(votes),
        "identical": identical,
        "win_rate_with_identical": _with_identical(votes, identical),
        "length_controlled": statistics.length_controlled(votes),
        "mean_length": lengths,
        "agreement": statistics.agreement(votes),
        "position": statistics.position_bias(comparison),
        "by_category": statistics.by_category(votes),
        "by_length": statistics.by_length(votes),
        "by_annotator": [
            {"annotator": name, **statistics.rates([vote for vote in votes if vote.annotator == name])}
            for name in names
        ],
    }


def _with_identical(votes: Sequence[Vote], identical: int) -> float | None:
    by_unit: dict[str, list[float]] = {}
    for vote in votes:
        if vote.score is not None:
            by_unit.setdefault(vote.unit.id, []).append(vote.score)
    scores = [sum(several) / len(several) for several in by_unit.values()] + [0.5] * identical
    return 100 * sum(scores) / len(scores) if scores else None
