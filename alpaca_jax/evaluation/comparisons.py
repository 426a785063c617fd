"""Files of votes to comparisons of two models: ours, and AlpacaEval's lists of annotations.

A verdict is a score for the model: 1 where its answer is preferred, 0 where the baseline's is, ½ for a tie, anything
between for a weighted vote, None for no verdict. AlpacaEval writes 1 + score as `preference`, the model being
`output_2`; a preference of 0, as of 1.5, is a tie.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, TypeAlias

from alpaca_jax.data.record_files import Value, read_values
from alpaca_jax.evaluation.pairs import Key, Pair, Pairs, read_key, read_pairs
from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import explain_os_errors

Side: TypeAlias = Literal["model", "baseline"]

_VOTES: dict[Any, float | None] = {"tie": 0.5, None: None}


class Unit(NamedTuple):
    """What is judged: a question with the answers of two models.

    Attributes:
      id: tells units apart, across files too.
      question: the whole text that was asked.
      category: what it is about, or empty.
      model_length, baseline_length: of the answers, in characters.
    """

    id: str
    question: str
    category: str
    model_length: int
    baseline_length: int


class Verdict(NamedTuple):
    """One look at a unit.

    Attributes:
      unit: what was judged.
      annotator: who judged.
      score: of the model; None where there is no verdict.
      first: whose answer was shown first, or on the left; None where that is not known.
      place: where it stands, for messages.
    """

    unit: Unit
    annotator: str
    score: float | None
    first: Side | None
    place: str


class Vote(NamedTuple):
    """What an annotator says about a unit, all looks taken together."""

    unit: Unit
    annotator: str
    score: float | None


@dataclasses.dataclass
class Comparison:
    """All verdicts about two models.

    Attributes:
      model, baseline: their names.
      verdicts: each look.
      identical: questions to which both gave the same answer, and about which nobody was asked.
    """

    model: str
    baseline: str
    verdicts: list[Verdict] = dataclasses.field(default_factory=list)
    identical: dict[str, set[str]] = dataclasses.field(default_factory=dict)

    @property
    def votes(self) -> list[Vote]:
        """The votes: of a unit seen in both orders the mean of both verdicts, or none where one of them is missing.

        Raises:
          UserError: an annotator has judged a unit twice in the same order.
        """
        seen: dict[tuple[str, str], list[Verdict]] = {}
        for verdict in self.verdicts:
            earlier = seen.setdefault((verdict.unit.id, verdict.annotator), [])
            for other in earlier:
                if other.first == verdict.first:
                    expected = "one vote of an annotator on a pair, or one for each order"
                    found = f"a second of {shorten(verdict.annotator)}, after {other.place}"
                    _refuse(verdict.place, expected, found)
            earlier.append(verdict)
        return [
            Vote(verdicts[0].unit, verdicts[0].annotator, _mean([verdict.score for verdict in verdicts]))
            for verdicts in seen.values()
        ]

    @property
    def orders(self) -> list[tuple[Verdict, Verdict]]:
        """The verdicts of annotators who saw the same unit in both orders."""
        first: dict[tuple[str, str], Verdict] = {}
        both = []
        for verdict in self.verdicts:
            key = verdict.unit.id, verdict.annotator
            if key in first:
                both.append((first[key], verdict))
            first[key] = verdict
        return both


def read_votes(paths: Sequence[Path], pair_files: Sequence[Path] = ()) -> list[Comparison]:
    """The comparisons in files of votes, those of the same two models together, in the order in which they come.

    Args:
      paths: files of votes, or lists of annotations of AlpacaEval.
      pair_files: where the votes do not say where their pair file is, or it has been moved.

    Raises:
      UserError: a file that is neither; a vote for an unknown pair; pairs or a key that are not there; two votes of an
        annotator for the same.
    """
    comparisons: dict[frozenset[str], Comparison] = {}
    books = _Books(pair_files)
    for path in paths:
        _refuse_database(path)
        values = list(read_values(path))
        if not values:
            raise UserError(str(path), expected="votes", found="none", remedy="check that it is the right file")
        if isinstance(values[0].value, dict) and "preference" in values[0].value:
            _read_annotations(values, comparisons)
        else:
            _read_own(values, path, books, comparisons)
    for comparison in comparisons.values():
        _ = comparison.votes  # refuses what stands twice
    return list(comparisons.values())


def _refuse_database(path: Path) -> None:
    with explain_os_errors(path), open(path, "rb") as file:
        if file.read(6) == b"SQLite":
            remedy = "write its votes out with `evaluate annotate --export=FILE.jsonl`"
            raise UserError(str(path), expected="lines of votes", found="an SQLite file", remedy=remedy)


class _Book(NamedTuple):
    pairs: dict[str, Pair]
    key: Key
    sha256: str


class _Books:
    """The pair files that votes refer to, each read once."""

    def __init__(self, given: Sequence[Path]):
        self._given = [_open(path) for path in given]
        self._opened: dict[Path, _Book] = {}

    def of(self, value: Value, votes: Path) -> _Book:
        """The pair file that a vote belongs to."""
        named, sha256 = value.value.get("pairs"), value.value.get("pairs_sha256")
        if named is None and sha256 is None and len(self._given) == 1:
            return self._given[0]
        for book in self._given:
            if book.sha256 == sha256:
                return book
        if not isinstance(named, str):
            _refuse(value.place, "the pair file that it belongs to, in `pairs`", "none", "give it with --pairs")
        path = votes.parent / named
        if path not in self._opened:
            if not path.exists():
                _refuse(value.place, f"its pair file at {path}", "no such file", "give it with --pairs")
            self._opened[path] = _open(path)
        book = self._opened[path]
        if book.sha256 != sha256:
            _refuse(
                value.place, f"a vote for the pairs in {path}", "one for other pairs", "give its pairs with --pairs"
            )
        return book


def _open(path: Path) -> _Book:
    pairs: Pairs = read_pairs(path)
    return _Book({pair.id: pair for pair in pairs.pairs}, read_key(path, pairs), pairs.sha256)


def _read_own(
    values: Iterable[Value], path: Path, books: _Books, comparisons: dict[frozenset[str], Comparison]
) -> None:
    for value in values:
        fields = value.value
        if not isinstance(fields, dict) or not {"pair", "annotator", "vote"} <= fields.keys():
            found = shorten(list(fields) if isinstance(fields, dict) else fields)
            _refuse(value.place, "a vote (`pair`, `annotator`, `vote`) or an annotation with `preference`", found)
        book = books.of(value, path)
        pair = book.pairs.get(fields["pair"]) if isinstance(fields["pair"], str) else None
        if pair is None:
            _refuse(value.place, "a vote for a pair of its pair file", f"the unknown pair {shorten(fields['pair'])}")
        annotator = _text(value, "annotator")
        a_is_model = book.key.a[pair.id] == "model"
        by_letter = {"a": float(a_is_model), "b": float(not a_is_model)}
        vote, left = fields["vote"], fields.get("left")
        if not (vote is None or vote in ("a", "b", "tie")) or not (left is None or left in ("a", "b")):
            _refuse(value.place, "`vote` a, b, tie or null, and `left` a or b", f"{shorten(vote)}, {shorten(left)}")
        score = by_letter[vote] if vote in ("a", "b") else _VOTES[vote]
        first: Side | None = None if left is None else "model" if by_letter[left] else "baseline"
        ours, theirs = (pair.a, pair.b) if a_is_model else (pair.b, pair.a)
        unit = Unit(f"{pair.id}\n{pair.question}", pair.question, pair.category, len(ours), len(theirs))
        comparison = _add(comparisons, book.key.model, book.key.baseline, unit, annotator, score, first, value.place)
        comparison.identical[book.sha256] = set(book.key.identical)


def _read_annotations(values: Iterable[Value], comparisons: dict[frozenset[str], Comparison]) -> None:
    times: dict[tuple[str, ...], int] = {}
    for value in values:
        fields = value.value
        if not isinstance(fields, dict) or "preference" not in fields:
            _refuse(value.place, "an annotation with `preference`", shorten(fields))
        score = _score_of(value)
        instruction, output_1, output_2 = (_text(value, name) for name in ("instruction", "output_1", "output_2"))
        baseline, model = _text(value, "generator_1", "output_1"), _text(value, "generator_2", "output_2")
        if model == baseline:
            baseline, model = f"{baseline} (1)", f"{model} (2)"
        annotator = _text(value, "annotator", "annotator")
        name = " ".join(instruction.split())
        # The same instruction may be in a set twice.
        key = (model, baseline, annotator, name)
        times[key] = times.get(key, 0) + 1
        unit_id = name if times[key] == 1 else f"{name} ({times[key]})"
        category = fields.get("category") or fields.get("dataset")
        unit = Unit(unit_id, instruction, category if isinstance(category, str) else "", len(output_2), len(output_1))
        _add(comparisons, model, baseline, unit, annotator, score, None, value.place)


def _score_of(value: Value) -> float | None:
    """The score in an annotation."""
    preference = value.value["preference"]
    if preference is None:
        return None
    number = isinstance(preference, int | float) and not isinstance(preference, bool)
    if number and preference == 0:
        return 0.5
    if not number or not 1 <= preference <= 2:
        _refuse(value.place, "`preference` 0, null, or a number from 1 to 2", shorten(preference))
    return float(preference) - 1


def _add(
    comparisons: dict[frozenset[str], Comparison],
    model: str,
    baseline: str,
    unit: Unit,
    annotator: str,
    score: float | None,
    first: Side | None,
    place: str,
) -> Comparison:
    """Adds a verdict to the comparison of these two models, turned round where that has them the other way round."""
    comparison = comparisons.setdefault(frozenset((model, baseline)), Comparison(model, baseline))
    if comparison.model != model:
        score = None if score is None else 1 - score
        first = {"model": "baseline", "baseline": "model", None: None}[first]
        unit = unit._replace(model_length=unit.baseline_length, baseline_length=unit.model_length)
    comparison.verdicts.append(Verdict(unit, annotator, score, first, place))
    return comparison


def _mean(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if len(known) == len(scores) else None


def _text(value: Value, name: str, default: str | None = None) -> str:
    text = value.value.get(name, default)
    if text is None and default is not None:
        return default
    if not isinstance(text, str) or (name == "annotator" and not text):
        _refuse(value.place, f"a text in `{name}`", shorten(text))
    return text


def _refuse(place: str, expected: str, found: str, remedy: str = "correct or delete that record") -> NoReturn:
    raise UserError(place, expected=expected, found=found, remedy=remedy)
