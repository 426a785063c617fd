"""How alike two instructions are, by ROUGE-L, and the texts of a pool that are most like a given one.

The F measure is the one by which self-instruct and Alpaca dropped near-duplicates: with the longest common subsequence
(LCS) of the two token sequences of lengths m and n, precision LCS/m and recall LCS/n, it is their harmonic mean
(Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 3). Tokens and floating-point operations
are those of the package `rouge_score` without stemming, so that `F > 0.7` decides the same here and there.
"""

import dataclasses
import math
import re
from array import array
from collections.abc import Callable

import numpy as np

_TOKEN = re.compile(r"[a-z0-9]+")
# Scripts without spaces between words: each character counts as one.
_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f"
_WORD = re.compile(rf"[{_ALONE}]|[^\W_{_ALONE}]+")
# A bound computed in floats must not lose a text that the measure, computed in other floats, puts above the threshold.
_SLACK = 1e-9


def tokenise(text: str) -> list[str]:
    """The words of a text as ROUGE sees them: lower case, and only runs of a–z and 0–9.

    >>> tokenise("Don't stop, café No. 9!")
    ['don', 't', 'stop', 'caf', 'no', '9']
    """
    return _TOKEN.findall(text.lower())


def tokenise_any(text: str) -> list[str]:
    """The words of a text in any language, in lower case.

    >>> tokenise_any("Où est l'été? 東京")
    ['où', 'est', 'l', 'été', '東', '京']
    """
    return _WORD.findall(text.lower())


def plain(text: str) -> str:
    """A text without what two equal ones may differ in: case, and white space."""
    return " ".join(text.casefold().split())


def f_measure(lcs: np.ndarray, length: int, lengths: np.ndarray) -> np.ndarray:
    """ROUGE-L F, float64 [n], from LCS lengths [n] of a text of `length` tokens and texts of `lengths` [n] tokens.

    All lengths are at least 1.
    """
    precision, recall = lcs / lengths, lcs / length
    total = precision + recall
    return np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)


@dataclasses.dataclass(frozen=True)
class Similar:
    """A text of a pool, by its number, and its ROUGE-L F with the text asked about."""

    number: int
    f: float


class SimilarityIndex:
    """A growing pool of texts, searched for those above a threshold without a comparison with each.

    The answers are those of comparing with every text. What is passed over is proved to be below the threshold t: since
    F = 2·LCS/(m + n) and LCS ≤ n, a text of n tokens above t has at least s = ⌈t·m/(2 − t)⌉ of the m asked about; so it
    has at least two of any m − s + 2 of them, and the rarest are looked up ("prefix filtering"; two, because one is
    often shared by chance). Of what is found there, LCS ≤ min(m, n) excludes texts too short or too long. The rest is
    measured by rapidfuzz.
    """

    def __init__(self, words: Callable[[str], list[str]] = tokenise) -> None:
        """An empty pool, whose texts are compared by the words that `words` finds in them."""
        self._tokenise = words
        self._words: dict[str, int] = {}
        self._texts: list[array[int]] = []  # a number for each token, the same for equal tokens
        self._lengths = array("i")
        self._postings: dict[str, array[int]] = {}  # a token → the numbers of the texts that have it

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: str) -> int:
        """Puts a text into the pool.

        Returns:
          Its number, counted from 0.
        """
        tokens, number = self._tokenise(text), len(self._texts)
        self._texts.append(array("I", [self._words.setdefault(token, len(self._words)) for token in tokens]))
        self._lengths.append(len(tokens))
        for token in set(tokens):
            self._postings.setdefault(token, array("i")).append(number)
        return number

    def nearest(self, text: str, threshold: float = 0.0, count: int = 1) -> list[Similar]:
        """The texts whose F with `text` is above the threshold, the most similar first and at most `count` of them.

        Equally similar ones come in the order in which they were added.

        Args:
          text: what to compare with the pool.
          threshold: F must be greater, not equal; at least 0.
          count: how many to return.
        """
        tokens = self._tokenise(text)
        numbers = self._candidates(tokens, threshold)
        if not len(numbers):
            return []
        lengths = np.frombuffer(self._lengths, dtype=np.int32)[numbers]
        pool = [self._texts[number] for number in numbers]
        f = self._measure(tokens, pool, lengths)
        above = np.flatnonzero(f > threshold)
        best = above[np.argsort(-f[above], kind="stable")][:count]
        return [Similar(int(numbers[place]), float(f[place])) for place in best]

    def compare(self, text: str) -> np.ndarray:
        """F with every text of the pool, float64 [len(self)], by its number."""
        tokens, lengths = self._tokenise(text), np.array(self._lengths, dtype=np.int32)
        f, some = np.zeros(len(lengths)), np.flatnonzero(lengths)
        if tokens and len(some):
            f[some] = self._measure(tokens, [self._texts[number] for number in some], lengths[some])
        return f

    def _measure(self, tokens: list[str], pool: list["array[int]"], lengths: np.ndarray) -> np.ndarray:
        """F of at least one token with each of at least one text, none of them empty."""
        from rapidfuzz import process
        from rapidfuzz.distance import LCSseq

        # A token that no text of the pool has gets a number that none has.
        asked = array("I", [self._words.get(token, len(self._words)) for token in tokens])
        lcs = process.cdist([asked], pool, scorer=LCSseq.similarity, dtype=np.int32)[0]
        return f_measure(lcs, len(tokens), lengths)

    def _candidates(self, tokens: list[str], threshold: float) -> np.ndarray:
        """Ascending numbers of texts, among them all whose F with `tokens` is above the threshold."""
        least = max(1, math.ceil(threshold * len(tokens) / (2 - threshold) - _SLACK))
        found = [self._postings.get(token, array("i")) for token in tokens]
        shared = min(2, least)
        rarest = [posting for posting in sorted(found, key=len)[: max(0, len(tokens) - least + shared)] if posting]
        if not rarest:
            return np.empty(0, np.int32)
        numbers, times = np.unique(np.concatenate([np.frombuffer(p, np.int32) for p in rarest]), return_counts=True)
        numbers = numbers[times >= shared]
        lengths = np.frombuffer(self._lengths, dtype=np.int32)[numbers]
        bound = 2 * np.minimum(lengths, len(tokens)) / (lengths + len(tokens))
        return numbers[bound > threshold - _SLACK]
