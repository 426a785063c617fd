"""Millions of examples in a few flat arrays, on disk while there are many.

E: examples; T: their tokens, end to end.
"""

import contextlib
import dataclasses
import mmap
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from alpaca_jax.data.examples import Example


@dataclasses.dataclass(frozen=True, eq=False)
class ExampleTable:
    """Examples end to end: number e is `tokens[starts[e] : starts[e + 1]]`, with its mask at the same places.

    Attributes:
      tokens: int32 [T].
      loss_mask: bool [T], True where the token is to be predicted.
      starts: int64 [E + 1].
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    starts: np.ndarray
    _mappings: tuple[mmap.mmap, ...] = ()

    @classmethod
    def of(cls, examples: Iterable[Example]) -> "ExampleTable":
        """A table in memory."""
        examples = list(examples)
        lengths_E = [len(example.tokens) for example in examples]
        return cls(
            np.concatenate([np.zeros(0, np.int32), *(example.tokens for example in examples)]),
            np.concatenate([np.zeros(0, np.bool_), *(example.loss_mask for example in examples)]),
            np.concatenate([[0], np.cumsum(lengths_E, dtype=np.int64)]),
        )

    @property
    def lengths(self) -> np.ndarray:
        """int64 [E], the tokens of each example."""
        return np.diff(self.starts)

    def forget(self) -> None:
        """Gives back the memory of what was read from disk; it is read again where it is needed again."""
        for mapping in self._mappings:
            mapping.madvise(mmap.MADV_DONTNEED)


class ExampleTableWriter:
    """Writes a table to disk as its examples come, and opens it at the end; a context manager."""

    def __init__(self, folder: Path):
        """Makes `folder`, which must not exist, and its files.

        Raises:
          OSError: it cannot be written.
        """
        folder.mkdir()
        with contextlib.ExitStack() as files:
            self._tokens = files.enter_context(open(folder / "tokens.int32", "w+b"))
            self._loss_mask = files.enter_context(open(folder / "loss_mask.bool", "w+b"))
            self._files = files.pop_all()
        self._lengths = [np.zeros(0, np.int64)]

    def __enter__(self) -> "ExampleTableWriter":
        """Nothing more to do."""
        return self

    def __exit__(self, *unused: object) -> None:
        """Closes the files; a table that was opened stays readable."""
        self._files.close()

    def append(self, tokens_T: np.ndarray, loss_mask_T: np.ndarray, lengths_E: np.ndarray) -> None:
        """Adds examples, end to end, in the types of `ExampleTable`.

        Raises:
          OSError: the disk is full.
        """
        self._tokens.write(tokens_T.data)
        self._loss_mask.write(loss_mask_T.data)
        self._lengths.append(lengths_E.astype(np.int64))

    def table(self) -> ExampleTable:
        """All that was added, at least one example, mapped from the files.

        Raises:
          OSError: the disk is full.
        """
        mappings = []
        for file in (self._tokens, self._loss_mask):
            file.flush()
            mappings.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        tokens_T, loss_mask_T = np.frombuffer(mappings[0], np.int32), np.frombuffer(mappings[1], np.bool_)
        starts = np.concatenate([[0], np.cumsum(np.concatenate(self._lengths))])
        return ExampleTable(tokens_T, loss_mask_T, starts, tuple(mappings))
