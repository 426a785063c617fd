"""Instruction files → one table of tokenised examples, made in several processes.

E: examples of a chunk; T: their tokens, end to end.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alpaca_jax.data.examples import Dropped, Example, Tokenization, make_examples
from alpaca_jax.data.instructions import Located, Record, read_records
from alpaca_jax.data.prompt import TEMPLATES
from alpaca_jax.data.tokenizer import load_tokenizer
from alpaca_jax.support.hashing import sha256_json, sha256_text

# Of a file's records: enough that handing them over costs little, few enough that all processes end about together.
_RECORDS_AT_ONCE = 512
_CHARACTERS_AT_ONCE = 2**20


class Origin(NamedTuple):
    """Where the records of a chunk come from; it stays behind when they go to another process.

    Attributes:
      source: the number of the input.
      places: each record with its place.
    """

    source: int
    places: list[Located]


class Chunk(NamedTuple):
    """Some neighbouring records of one input.

    Attributes:
      records: at least one.
      weight: how often each is wanted, on average.
    """

    records: list[Record]
    weight: float


@dataclasses.dataclass(frozen=True, eq=False)
class TokenisedChunk:
    """What came of a chunk.

    Attributes:
      left_out: how many of its records the weight leaves out.
      rejected: of those that give no example the number in the chunk, and why.
      tokens, loss_mask: int32 [T] and bool [T], the examples end to end.
      lengths: int32 [E].
      copies: int32 [E], how often the example is to be packed, at least once.
      held_out: bool [E], whether it belongs to evaluation.
      truncated: bool [E].
      targets: int32 [E], its trained tokens.
    """

    left_out: int
    rejected: list[tuple[int, str]]
    tokens: np.ndarray
    loss_mask: np.ndarray
    lengths: np.ndarray
    copies: np.ndarray
    held_out: np.ndarray
    truncated: np.ndarray
    targets: np.ndarray

    def without_tokens(self) -> "TokenisedChunk":
        """What remains to be held of it once its tokens are written."""
        return dataclasses.replace(self, tokens=self.tokens[:0].copy(), loss_mask=self.loss_mask[:0].copy())


class Tokenising:
    """The work on a chunk; a copy in another process loads the tokenizer anew."""

    def __init__(
        self,
        tokenizer: str | Path,
        template: str,
        tokenization: Tokenization,
        seq_len: int,
        seed: int,
        eval_fraction: float,
    ):
        """Loads the tokenizer.

        Raises:
          UserError: as `load_tokenizer`.
        """
        self._arguments = (tokenizer, template, tokenization, seq_len, seed, eval_fraction)
        self.tokenizer, self._template = load_tokenizer(tokenizer), TEMPLATES[template]
        self._tokenization, self._seq_len, self._seed, self._eval_fraction = tokenization, seq_len, seed, eval_fraction

    def __reduce__(self) -> tuple[Any, ...]:
        """A tokenizer cannot be sent to another process; its path can."""
        return Tokenising, self._arguments

    def __call__(self, chunk: Chunk) -> TokenisedChunk:
        """Tokenises the records that the weight takes.

        Raises:
          UserError: the tokenizer has not got the template's special tokens.
        """
        copies = [copies_of(record, chunk.weight, self._seed) for record in chunk.records]
        taken = [number for number, count in enumerate(copies) if count]
        made = make_examples(
            [chunk.records[number] for number in taken],
            self.tokenizer,
            self._template,
            self._seq_len,
            self._tokenization,
        )
        results = list(zip(taken, made, strict=True))
        kept = [number for number, result in results if isinstance(result, Example)]
        examples = [result for result in made if isinstance(result, Example)]
        return TokenisedChunk(
            left_out=len(copies) - len(taken),
            rejected=[(number, result.reason) for number, result in results if isinstance(result, Dropped)],
            tokens=np.concatenate([np.zeros(0, np.int32), *(example.tokens for example in examples)]),
            loss_mask=np.concatenate([np.zeros(0, np.bool_), *(example.loss_mask for example in examples)]),
            lengths=np.array([len(example.tokens) for example in examples], np.int32),
            copies=np.array([copies[number] for number in kept], np.int32),
            held_out=np.array([is_held_out(chunk.records[number], self._eval_fraction) for number in kept], np.bool_),
            truncated=np.array([example.truncated for example in examples], np.bool_),
            # The first token has nothing before it to be predicted from.
            targets=np.array([np.count_nonzero(example.loss_mask[1:]) for example in examples], np.int32),
        )


def chunks_of(inputs: Iterable[tuple[Path, float]]) -> Iterator[tuple[Origin, Chunk]]:
    """The records of all inputs, each with its weight, a bounded number at a time; weight 0 leaves an input unread.

    Raises:
      UserError: as `read_records`.
    """
    for source, (path, weight) in enumerate(inputs):
        places: list[Located] = []
        characters = 0
        for place in read_records(path) if weight else ():
            places.append(place)
            characters += sum(map(len, place.record.identity()))
            if len(places) == _RECORDS_AT_ONCE or characters > _CHARACTERS_AT_ONCE:
                yield Origin(source, places), Chunk([place.record for place in places], weight)
                places, characters = [], 0
        if places:
            yield Origin(source, places), Chunk([place.record for place in places], weight)


def is_held_out(record: Record, eval_fraction: float) -> bool:
    """Whether a record belongs to evaluation: a function of its text and the fraction alone, monotone in the fraction.

    Equal records are thus on the same side, wherever they stand and however often.
    """
    return bool(eval_fraction) and _share(sha256_json(record.identity())) < eval_fraction


def copies_of(record: Record, weight: float, seed: int) -> int:
    """How often a record of weight w is packed: ⌊w⌋ times, and once more with probability w − ⌊w⌋.

    A hash of the seed and the record decides, so that the same request always takes the same records.
    """
    whole = int(weight)
    if weight == whole:
        return whole
    return whole + (_share(sha256_json([str(seed), *record.identity()])) < weight - whole)


def _share(digest: str) -> float:
    """A hash as a number from 0 to below 1, of as many bits as a float holds exactly."""
    return int(digest[:13], 16) / 16**13


def shuffled(count: int, seed: int) -> np.ndarray:
    """The numbers 0 to `count` − 1 in an order that depends on `count` and `seed` alone, int64.

    They are sorted by a mix of their bits (splitmix64), the same on every machine and in every version of numpy.
    """
    start = int(sha256_text(str(seed))[:16], 16)
    with np.errstate(over="ignore"):
        mixed = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(start)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.argsort(mixed ^ (mixed >> np.uint64(31)), kind="stable")
