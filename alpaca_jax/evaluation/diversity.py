"""`evaluate diversity`: how varied an instruction file is, as a picture and as a page.

The instructions' root verbs with their direct objects, the lengths of instructions, inputs and outputs, and how like
each instruction is to the seed task most like it.
"""

import argparse
import dataclasses
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alpaca_jax.data.embedded import SEED_TASKS
from alpaca_jax.data.instructions import Conversation, Instruction, Located, read_records
from alpaca_jax.data.similarity import SimilarityIndex, tokenise_any
from alpaca_jax.evaluation.diversity_figure import NEAR_DUPLICATE, OBJECTS, VERBS, draw
from alpaca_jax.evaluation.diversity_page import render
from alpaca_jax.evaluation.diversity_verbs import Request, requests_of
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import check_file_place, write_bytes_atomic, write_text_atomic
from alpaca_jax.support.program import Flags, print_json
from alpaca_jax.support.progress import ProgressBar, console

DESCRIPTION = """Draws how varied the instructions of a file are: the most common root verbs and their direct objects
in two rings, the lengths of all texts, and how like each instruction is to the nearest seed task. The texts must be
English; the extra `diversity` brings the parser. Beside the picture comes a page with the figures in tables.
"""
_MOST_ALIKE = 20  # instructions that the page lists with the seed that they are like


@dataclasses.dataclass(frozen=True)
class Verb:
    """A root verb, how many instructions have it with a direct object, and its objects with their counts."""

    name: str
    count: int
    objects: list[tuple[str, int]]


class Alike(NamedTuple):
    """An instruction, the seed most like it, and their ROUGE-L F."""

    instruction: str
    seed: str
    f: float


@dataclasses.dataclass(frozen=True)
class Diversity:
    """What is drawn.

    Attributes:
      file: name of the instruction file.
      seeds: the seed tasks in words.
      instructions: how many tasks there are; one with several instances counts once.
      verbs: the root verbs that have a direct object, the most common first.
      without_object: instructions whose root verb has none.
      without_verb: instructions without a root verb.
      lengths: words of each instruction, input and output, int64 [n], by what they are.
      similarity: each instruction's ROUGE-L F with the seed most like it, float64 [instructions].
      alike: those most like a seed.
    """

    file: str
    seeds: str
    instructions: int
    verbs: list[Verb]
    without_object: int
    without_verb: int
    lengths: dict[str, np.ndarray]
    similarity: np.ndarray
    alike: list[Alike]

    @property
    def with_object(self) -> int:
        """Instructions whose root verb has a direct object."""
        return sum(verb.count for verb in self.verbs)

    @property
    def top_verbs(self) -> list[Verb]:
        """The verbs in the rings."""
        return self.verbs[:VERBS]

    @property
    def pairs(self) -> int:
        """Different pairs of a verb and an object."""
        return sum(len(verb.objects) for verb in self.verbs)

    @property
    def title(self) -> str:
        """What the picture shows."""
        return f"What {self.instructions:,} instructions ask for: {self.file}"

    @property
    def subtitle(self) -> str:
        """The variety in figures."""
        return (
            f"{self.with_object:,} ({self.with_object / self.instructions:.0%}) have a root verb with a direct object: "
            f"{len(self.verbs):,} different verbs, {self.pairs:,} different pairs"
        )

    @property
    def centre(self) -> str:
        """What stands in the middle of the rings."""
        shown = sum(verb.count for verb in self.top_verbs)
        return f"the {len(self.top_verbs)} most\ncommon verbs:\n{shown / self.with_object:.0%} of {self.with_object:,}"

    @property
    def legend(self) -> str:
        """How the rings are to be read."""
        return (
            "Inner ring: root verbs and how many instructions have them with an object, clockwise from the top. Outer "
            f"ring: each verb's\n{OBJECTS} most common direct objects. Arcs grow with the square roots of the counts, "
            "so that small ones can be read."
        )

    def as_json(self) -> dict[str, Any]:
        """The figures for `--json`."""
        return {
            "instructions": self.instructions,
            "with_object": self.with_object,
            "without_object": self.without_object,
            "without_verb": self.without_verb,
            "verbs": len(self.verbs),
            "pairs": self.pairs,
            "top_verbs": [
                {"verb": verb.name, "count": verb.count, "objects": dict(verb.objects[:OBJECTS])}
                for verb in self.top_verbs
            ],
            "median_words": {
                name.lower(): float(np.median(words[words > 0])) if (words > 0).any() else 0.0
                for name, words in self.lengths.items()
            },
            "median_similarity": float(np.median(self.similarity)),
            "near_duplicates_of_seeds": int((self.similarity > NEAR_DUPLICATE).sum()),
        }


def add_flags(flags: Flags) -> None:
    """Adds the flags of `evaluate diversity`."""
    flags.add_argument("--input", metavar="FILE", type=Path, required=True, help="instruction file, in English")
    flags.add_argument("--out", metavar="PNG", type=Path, required=True, help="picture to write")
    flags.add_argument(
        "--html", metavar="FILE", type=Path, default=None, help="page to write (default: PNG's name with .html)"
    )
    flags.add_argument(
        "--seeds", metavar="FILE", type=Path, default=None, help="seed tasks (default: those of this project)"
    )
    flags.add_argument("--json", action="store_true", default=False, help="print the figures as one JSON object")


def run(values: argparse.Namespace) -> None:
    """Reads, counts, draws and writes.

    Raises:
      UserError: a file that is no instruction file, a name that does not fit, or the parser is not installed.
    """
    out, page = values.out, values.html or values.out.with_suffix(".html")
    if out.suffix.lower() != ".png":
        raise UserError("--out", expected="a name that ends in .png", found=repr(out.name), remedy="choose another")
    if page.suffix.lower() not in (".html", ".htm"):
        raise UserError("--html", expected="a name that ends in .html", found=repr(page.name), remedy="choose another")
    for path in (out, page):
        check_file_place(path)
    diversity = measure(values.input, values.seeds)
    png, svg = draw(diversity)
    write_bytes_atomic(out, png)
    write_text_atomic(page, render(diversity, svg))
    if values.json:
        print_json(diversity.as_json())
    else:
        console.print(f"{diversity.subtitle}; drawn to {out}, tables in {page}", markup=False)


def measure(path: Path, seeds: Path | None = None) -> Diversity:
    """Counts what is in an instruction file.

    Args:
      path: the file; of a chat, the first question and its answer count.
      seeds: file of seed tasks; by default those that come with the project.

    Raises:
      UserError: as `read_records`, or the parser is not installed.
    """
    pool = list(dict.fromkeys(_as_task(located).instruction for located in read_records(seeds or SEED_TASKS)))
    records = list(read_records(path))
    tasks = [_as_task(located) for located in records]
    instructions = [
        task.instruction for task, located in zip(tasks, records, strict=True) if located.instance in (None, 1)
    ]
    with ProgressBar("parsing", len(instructions)) as bar:
        requests = list(requests_of(instructions, bar.advance))
    alike = _nearest_seeds(instructions, pool)
    return Diversity(
        file=_short_name(path),
        seeds=f"the {len(pool):,} seed tasks {'of this project' if seeds is None else f'in {_short_name(seeds)}'}",
        instructions=len(instructions),
        verbs=_count_verbs(requests),
        without_object=sum(request is not None and request.object is None for request in requests),
        without_verb=requests.count(None),
        lengths={
            "Instructions": _words(instructions),
            "Inputs": _words([task.input for task in tasks]),
            "Outputs": _words([task.output for task in tasks]),
        },
        similarity=np.array([one.f for one in alike]),
        alike=sorted(alike, key=lambda one: -one.f)[:_MOST_ALIKE],
    )


def _short_name(path: Path) -> str:
    """The file's name, as much of it as the picture has room for."""
    return path.name if len(path.name) <= 50 else f"{path.name[:49]}…"


def _as_task(located: Located) -> Instruction:
    record = located.record
    if isinstance(record, Conversation):
        turns = [message.content for message in record.messages if message.role != "system"]
        return Instruction(turns[0], "", turns[1])
    return record


def _words(texts: Sequence[str]) -> np.ndarray:
    return np.array([len(text.split()) for text in texts], dtype=np.int64)


def _count_verbs(requests: Sequence[Request | None]) -> list[Verb]:
    """The verbs that have an object, and their objects, both the most common first and then by the alphabet."""
    objects: dict[str, Counter[str]] = defaultdict(Counter)
    for request in requests:
        if request is not None and request.object is not None:
            objects[request.verb][request.object] += 1
    verbs = [
        Verb(name, counts.total(), sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
        for name, counts in objects.items()
    ]
    return sorted(verbs, key=lambda verb: (-verb.count, verb.name))


def _nearest_seeds(instructions: Sequence[str], seeds: Sequence[str]) -> list[Alike]:
    """For each instruction the seed most like it; where it shares no word with any, the seed is empty."""
    index = SimilarityIndex(tokenise_any)
    for seed in seeds:
        index.add(seed)
    alike = []
    for instruction in instructions:
        nearest = index.nearest(instruction)
        alike.append(
            Alike(instruction, seeds[nearest[0].number], nearest[0].f) if nearest else Alike(instruction, "", 0.0)
        )
    return alike
