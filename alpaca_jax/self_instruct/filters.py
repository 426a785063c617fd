"""Which tasks are kept: the rules of Alpaca, and no near-duplicate of a seed or of a record."""

import re
import string
from collections.abc import Sequence
from typing import Any

from alpaca_jax.data.similarity import SimilarityIndex, tokenise, tokenise_any

LEAST_WORDS, MOST_WORDS = 4, 150
_MOST_SIMILAR = 10

# What a model of text alone cannot work on or answer with.
_UNFIT = re.compile(
    r"\b(?:images?|graphs?|pictures?|files?|maps?|draw|plot|go to|video|audio|music|flowchart|diagram)\b", re.I
)
_PROGRAM = "write a program"


def unfit(instruction: str, *, english: bool) -> str | None:
    """Why an instruction is not kept, whatever else is there; None where it is fit.

    Args:
      instruction: without white space at its ends, and not empty.
      english: whether letters outside ASCII and the English words are looked for.
    """
    words = len(instruction.split()) if english else max(len(instruction.split()), len(tokenise_any(instruction)))
    if words < LEAST_WORDS:
        return "too_short"
    if words > MOST_WORDS:
        return "too_long"
    if english and _UNFIT.search(instruction):
        return "beyond_text"
    if english and instruction.lower().startswith(_PROGRAM):
        return "asks_for_program"
    if instruction[0] in string.punctuation:
        return "punctuation_first"
    return "not_ascii_first" if english and not instruction[0].isascii() else None


class Pool:
    """The instructions that a new one must not be too like: the seeds' and those that were kept."""

    def __init__(self, seeds: Sequence[tuple[str, str]], near: float, *, english: bool):
        """The pool of the seeds.

        Args:
          seeds: their names and instructions.
          near: the ROUGE-L F above which an instruction is a near-duplicate.
          english: whether words are rouge_score's, of a–z and 0–9 alone, or those of any language.
        """
        self._index = SimilarityIndex(tokenise if english else tokenise_any)
        self._near = near
        self._names = list[str]()
        for name, instruction in seeds:
            self.add(name, instruction)

    def add(self, name: str, instruction: str) -> None:
        """Adds an instruction under a name."""
        self._index.add(instruction)
        self._names.append(name)

    def __len__(self) -> int:
        return len(self._names)

    def is_near(self, instruction: str) -> bool:
        """Whether an instruction is a near-duplicate."""
        return bool(self._index.nearest(instruction, self._near))

    def likeness(self, instruction: str, size: int) -> dict[str, Any]:
        """How alike an instruction is to the first `size` of the pool.

        Returns:
          `similarity`: the greatest F; `most_similar`: the ten greatest, by name; `mean_similarity`.
        """
        f = self._index.compare(instruction)[:size]
        nearest = sorted(range(len(f)), key=lambda number: (-f[number], number))[:_MOST_SIMILAR]
        return {
            "similarity": round(float(f.max(initial=0)), 6),
            "most_similar": {self._names[number]: round(float(f[number]), 6) for number in nearest if f[number] > 0},
            "mean_similarity": round(float(f.mean()), 6) if len(f) else 0.0,
        }
