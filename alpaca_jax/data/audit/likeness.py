"""Records that are equal or alike: to earlier ones, and to those of an evaluation set."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from alpaca_jax.data.audit.forms import read_instruction_values, tasks_of
from alpaca_jax.data.audit.kinds import Found, excerpt
from alpaca_jax.data.instructions import Instruction, with_empty_answers
from alpaca_jax.data.similarity import SimilarityIndex, plain, tokenise_any
from alpaca_jax.support.hashing import sha256_json

# A run of this many words that two texts share is hardly chance (GPT-3 took 13 of a page; instructions are shorter).
_RUN = 8
# The share of an evaluation record's runs that makes it contained in another.
_CONTAINED = 0.5


class Duplicates:
    """Finds what equals something seen before, by hashes."""

    def __init__(self) -> None:
        """Nothing seen."""
        self._places: dict[bytes, str] = {}

    def find(self, texts: Sequence[str], place: str) -> str | None:
        """The place where the same texts were first seen; None where this is the first."""
        key = bytes.fromhex(sha256_json(texts)[:32])  # half as large as its letters, and enough
        if key in self._places:
            return self._places[key]
        self._places[key] = place
        return None


class NearDuplicates:
    """Finds instructions whose ROUGE-L F with an earlier one is above a threshold."""

    def __init__(self, threshold: float):
        """Nothing seen."""
        self._threshold, self._index, self._places = threshold, SimilarityIndex(tokenise_any), list[str]()
        self._texts = list[str]()

    def find(self, instructions: Iterable[str], place: str) -> Found | None:
        """The earlier instruction most like one of these, which are one record's and not compared with each other."""
        found = None
        instructions = list(dict.fromkeys(instructions))
        for instruction in instructions:
            for similar in self._index.nearest(instruction, self._threshold):
                other = self._texts[similar.number]
                why = f"F {similar.f:.2f} with {self._places[similar.number]}: “{excerpt(other)}”"
                found = found or Found("near_duplicate", why, excerpt(instruction))
        for instruction in instructions:
            self._index.add(instruction)
            self._places.append(place)
            self._texts.append(instruction)
        return found


class EvaluationSet:
    """Finds tasks that are, or hold, a task of an evaluation set."""

    def __init__(self, paths: Sequence[Path], threshold: float):
        """Reads the set's tasks; a file is of any form that training data has, and answers need not be there.

        Raises:
          UserError: a file is not one of these.
        """
        self._threshold, self._index = threshold, SimilarityIndex(tokenise_any)
        self._equal: dict[str, int] = {}
        self._places, self._texts, self._runs = list[str](), list[str](), list[int]()
        self._where: dict[tuple[str, ...], set[int]] = {}
        for path in paths:
            for value in read_instruction_values(path):
                for task in tasks_of(with_empty_answers(value)):
                    self._add(task.question, value.place)

    def _add(self, text: str, place: str) -> None:
        number = self._index.add(text)
        self._equal.setdefault(plain(text), number)
        runs = set(_runs(text))
        for run in runs:
            self._where.setdefault(run, set()).add(number)
        self._runs.append(len(runs))
        self._places.append(place)
        self._texts.append(text)

    def find(self, task: Instruction) -> Found | None:
        """The evaluation task that is most like this one, or is contained in it."""
        asked = task.question
        if (number := self._equal.get(plain(asked))) is not None:
            return self._found(number, "F 1.00", task)  # also where it has no word, such as “??”
        for similar in self._index.nearest(asked, self._threshold):
            return self._found(similar.number, f"F {similar.f:.2f}", task)
        shared = Counter(number for run in set(_runs(f"{asked} {task.output}")) for number in self._where.get(run, ()))
        for number, count in sorted(shared.items(), key=lambda item: (-item[1] / self._runs[item[0]], item[0])):
            if count / self._runs[number] >= _CONTAINED:
                return self._found(number, f"{count} of its {self._runs[number]} runs of {_RUN} words", task)
            break
        return None

    def _found(self, number: int, measure: str, task: Instruction) -> Found:
        why = f"{measure} with {self._places[number]}: “{excerpt(self._texts[number])}”"
        return Found("contaminated", why, excerpt(task.question), ())


def _runs(text: str) -> list[tuple[str, ...]]:
    words = tokenise_any(text)
    return [tuple(words[start : start + _RUN]) for start in range(len(words) - _RUN + 1)]
