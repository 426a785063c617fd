"""Blind pairs: two models' answers to the same questions, side by side, without a word about whose they are.

PAIRS.json is all that a page or a judge reads:

    {"format": "alpaca_jax pairs 1", "seed": 0, "sha256": …,
     "pairs": [{"id": "task 7", "instruction": …, "input": …, "category": …, "a": ANSWER, "b": ANSWER}, …]}

Which model wrote `a` is drawn for each pair. PAIRS.key.json beside it says it; only `report` reads that:

    {"format": "alpaca_jax key 1", "sha256": …, "model": NAME, "baseline": NAME,
     "a": {"task 7": "model", "task 8": "baseline", …}, "identical": ["task 9", …]}

`sha256` is that of the seed and the pairs. Pairs of answers that are the same, but for white space around them, are set
aside under `identical`: nobody is asked about them. Each annotator sees the pairs in an order, and with sides, of their
own: `Pairs.sheet`. A file of votes holds a verdict a line:

    {"pair": "task 7", "annotator": "Anna", "left": "a", "vote": "b", "comment": "",
     "time": "2026-11-23T02:10:00+00:00", "pairs": "PAIRS.json", "pairs_sha256": …}

`vote` is `a`, `b`, `tie`, or null where there is no verdict; `left` is the answer that stood on the left, or first;
`pairs` is the path of the pair file as seen from the folder of the votes. An annotator who sees a pair in both orders,
as a judge does, has a line for each. `comment` and `time` may be missing.
"""

import dataclasses
import os
import random
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, TypeAlias

from alpaca_jax.data.instructions import Instruction
from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import read_json, write_json_atomic
from alpaca_jax.support.hashing import sha256_json

Letter: TypeAlias = Literal["a", "b"]

_PAIRS, _KEY = "alpaca_jax pairs 1", "alpaca_jax key 1"
_TEXTS = ("id", "instruction", "input", "category", "a", "b")
_REMEDY = "make it again with `evaluate pair`"


@dataclasses.dataclass(frozen=True)
class Pair:
    """A question and two answers to it."""

    id: str
    instruction: str
    input: str
    category: str
    a: str
    b: str

    @property
    def question(self) -> str:
        """As `Instruction.question`."""
        return Instruction(self.instruction, self.input, "").question

    def answer(self, letter: Letter) -> str:
        """The answer under that letter."""
        return self.a if letter == "a" else self.b


class Shown(NamedTuple):
    """A pair as one annotator sees it: which of its answers is on the left."""

    pair: Pair
    left: Letter

    @property
    def right(self) -> Letter:
        """Which is on the right."""
        return "b" if self.left == "a" else "a"


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The content of a pair file."""

    seed: int
    pairs: tuple[Pair, ...]

    @property
    def sha256(self) -> str:
        """What makes it this pair file and no other."""
        return sha256_json([self.seed, [dataclasses.asdict(pair) for pair in self.pairs]])

    def sheet(self, annotator: str) -> list[Shown]:
        """The pairs in the order and with the sides for this annotator, the same each time.

        Each letter stands on the left in half of them.
        """
        generator = random.Random(f"{self.seed}/{annotator}")
        order = generator.sample(self.pairs, len(self.pairs))
        sides: list[Letter] = ["a" if number % 2 else "b" for number in range(len(order))]
        generator.shuffle(sides)
        return [Shown(pair, left) for pair, left in zip(order, sides, strict=True)]


@dataclasses.dataclass(frozen=True)
class Key:
    """Whose answers they are.

    Attributes:
      model, baseline: names; the report says how the first fares against the second.
      a: who wrote the answer `a` of each pair.
      identical: the questions to which both gave the same answer.
    """

    model: str
    baseline: str
    a: dict[str, Literal["model", "baseline"]]
    identical: tuple[str, ...]


def key_path(pairs: Path) -> Path:
    """Where the key of a pair file lies."""
    return pairs.with_name(f"{pairs.name.removesuffix('.json')}.key.json")


def write_pairs(path: Path, pairs: Pairs, key: Key) -> None:
    """Writes a pair file and its key.

    Raises:
      UserError: the folder cannot be written.
    """
    write_json_atomic(key_path(path), {"format": _KEY, "sha256": pairs.sha256, **dataclasses.asdict(key)})
    write_json_atomic(
        path,
        {
            "format": _PAIRS,
            "seed": pairs.seed,
            "sha256": pairs.sha256,
            "pairs": [dataclasses.asdict(pair) for pair in pairs.pairs],
        },
    )


def read_pairs(path: Path) -> Pairs:
    """The pairs in a file.

    Raises:
      UserError: it is not a pair file, has been changed, or has a pair twice.
    """
    content = _read(path, _PAIRS, "a pair file, as `evaluate pair` writes it")
    seed, listed = content.get("seed"), content.get("pairs")
    if not isinstance(seed, int) or not isinstance(listed, list):
        _refuse(path, "`seed` and a list of `pairs`", shorten(list(content)))
    pairs: list[Pair] = []
    for number, fields in enumerate(listed, start=1):
        if not (
            isinstance(fields, dict)
            and fields.keys() == set(_TEXTS)
            and all(isinstance(fields[name], str) for name in _TEXTS)
        ):
            _refuse(path, f"pair {number} with the texts {', '.join(_TEXTS)}", shorten(fields))
        pairs.append(Pair(**fields))
    result = Pairs(seed, tuple(pairs))
    if len({pair.id for pair in pairs}) < len(pairs):
        names = [pair.id for pair in pairs]
        _refuse(path, "each pair once", f"{shorten(next(name for name in names if names.count(name) > 1))} twice")
    if content.get("sha256") != result.sha256:
        _refuse(path, f"the content that its sha256 {shorten(content.get('sha256'), 16)} is of", "a changed file")
    return result


def read_key(pairs_path: Path, pairs: Pairs) -> Key:
    """The key of a pair file.

    Raises:
      UserError: there is none, or it belongs to other pairs.
    """
    path = key_path(pairs_path)
    content = _read(path, _KEY, "the key of a pair file, as `evaluate pair` writes it")
    if content.get("sha256") != pairs.sha256:
        _refuse(path, f"the key of {pairs_path}", "that of other pairs")
    fields: dict[str, Any] = {field.name: content.get(field.name) for field in dataclasses.fields(Key)}
    if not (
        isinstance(fields["a"], dict)
        and isinstance(fields["identical"], list)
        and fields["a"].keys() == {pair.id for pair in pairs.pairs}
        and all(writer in ("model", "baseline") for writer in fields["a"].values())
        and all(isinstance(name, str) for name in fields["identical"])
        and all(isinstance(fields[name], str) for name in ("model", "baseline"))
    ):
        _refuse(
            path, "`model`, `baseline`, `identical`, and in `a` who wrote that answer of each pair", "something else"
        )
    return Key(fields["model"], fields["baseline"], fields["a"], tuple(fields["identical"]))


def vote_line(
    shown: Shown,
    annotator: str,
    vote: Literal["a", "b", "tie"] | None,
    *,
    pairs: tuple[Path, Pairs],
    votes: Path,
    comment: str = "",
    time: str,
) -> dict[str, Any]:
    """A line of a file of votes.

    Args:
      shown: the pair, as it was shown.
      annotator: who votes.
      vote: for which answer.
      pairs: the pair file and its content.
      votes: the file that the line is for.
      comment: what the annotator said about it.
      time: when, in UTC.
    """
    return {
        "pair": shown.pair.id,
        "annotator": annotator,
        "left": shown.left,
        "vote": vote,
        "comment": comment,
        "time": time,
        "pairs": os.path.relpath(pairs[0].absolute(), votes.absolute().parent),
        "pairs_sha256": pairs[1].sha256,
    }


def _read(path: Path, form: str, expected: str) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != form:
        _refuse(path, expected, shorten(content))
    return content


def _refuse(path: Path, expected: str, found: str) -> NoReturn:
    raise UserError(str(path), expected=expected, found=found, remedy=_REMEDY)
