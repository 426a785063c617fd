"""Packs examples of many lengths into rows of one length; inputs and targets are shifted by one here and only here.

L: tokens in a row; I: items to pack; J: items of a few rows; P: the places they fill. An example of n tokens is an item
of n − 1 places, since its last token is only a target.
"""

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from alpaca_jax.data.example_table import ExampleTable

# Rows are made this many places at a time: few enough to be small beside everything else, many enough for numpy.
_PLACES_AT_ONCE = 2**18


@dataclasses.dataclass(frozen=True, eq=False)
class PackedRow:
    """One row of several examples, each a segment of its own.

    Two examples, `A B c d $` (prompt A B, response c d, eos $) and `E f $`, in a row of 8:

        tokens         A  B  c  d  E  f  .  .
        targets        B  c  d  $  f  $  .  .
        loss_mask      0  1  1  1  1  1  0  0
        segment_ids    1  1  1  1  2  2  0  0
        positions      0  1  2  3  0  1  0  0

    `loss_mask` belongs to the targets: at each place, whether the target is trained. Padding (`.`) is 0 everywhere.

    Attributes:
      tokens: int32 [L], the model's input.
      targets: int32 [L], the token that follows each input token in its own example.
      loss_mask: bool [L].
      segment_ids: int32 [L], from 1 within the row; 0 is padding.
      positions: int32 [L], from 0 within each segment.
    """

    tokens: np.ndarray
    targets: np.ndarray
    loss_mask: np.ndarray
    segment_ids: np.ndarray
    positions: np.ndarray


# Field name → numpy type, in the order of `PackedRow`.
ROW_DTYPES: dict[str, type[np.generic]] = {
    "tokens": np.int32,
    "targets": np.int32,
    "loss_mask": np.bool_,
    "segment_ids": np.int32,
    "positions": np.int32,
}


class Rows(Protocol):
    """Rows in an order, as many as `len` says."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[PackedRow]: ...


def best_fit_decreasing(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Distributes items over rows of `capacity`: the longest first, each into the fullest row that still has room.

    Equal lengths keep their order, and of equally full rows the one last filled is taken, so the result depends on
    nothing but the arguments. Rows are numbered in the order in which they were opened.

    The rows' free space is kept as the bits of one integer: the smallest free space that is large enough is its lowest
    set bit at or above the length, found in capacity/64 machine words whatever the number of rows.

    Args:
      lengths: integers [I].
      capacity: places in a row.

    Returns:
      int32 [I], the row of each item.

    Raises:
      ValueError: a length that is not between 1 and `capacity`.
    """
    for item in np.flatnonzero((lengths < 1) | (lengths > capacity))[:1]:
        raise ValueError(f"item {item}: expected a length between 1 and {capacity}, found {lengths[item]}")
    rows_with_space: list[list[int]] = [[] for _ in range(capacity + 1)]
    spaces = 0  # bit s is set while some row has exactly s free places
    opened = 0
    chosen = []
    longest_first_I = _longest_first(lengths)
    for length in lengths[longest_first_I].tolist():
        large_enough = spaces >> length
        if large_enough:
            space = length + (large_enough & -large_enough).bit_length() - 1
            row = rows_with_space[space].pop()
            if not rows_with_space[space]:
                spaces ^= 1 << space
        else:
            space, row = capacity, opened
            opened += 1
        chosen.append(row)
        rows_with_space[space - length].append(row)
        spaces |= 1 << (space - length)
    row_I = np.empty(len(lengths), np.int32)
    row_I[longest_first_I] = chosen
    return row_I


def _longest_first(lengths: np.ndarray) -> np.ndarray:
    return np.argsort(-lengths, kind="stable")


class PackedRows:
    """Rows of `seq_len` that hold each of some examples once and whole; each iteration makes them anew."""

    def __init__(self, table: ExampleTable, chosen: np.ndarray, seq_len: int):
        """Decides which example goes where.

        Args:
          table: where the examples are.
          chosen: the numbers [I] of those to pack, in any order, which decides between those of equal length; a number
            that comes twice is packed twice.
          seq_len: the length of the rows.

        Raises:
          ValueError: an example of fewer than 2 or more than `seq_len + 1` tokens.
        """
        self._table, self._seq_len = table, seq_len
        lengths_I = table.lengths[chosen] - 1
        row_I = best_fit_decreasing(lengths_I, seq_len)
        longest_first_I = _longest_first(lengths_I)
        by_row_I = longest_first_I[np.argsort(row_I[longest_first_I], kind="stable")]
        self._examples, self._lengths, self._rows = chosen[by_row_I], lengths_I[by_row_I], row_I[by_row_I]
        self._count = int(self._rows[-1]) + 1 if len(self._rows) else 0
        self.filled_places = int(lengths_I.sum())

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[PackedRow]:
        at_once = max(1, _PLACES_AT_ONCE // self._seq_len)
        for first in range(0, self._count, at_once):
            rows = self._make(first, min(first + at_once, self._count))
            for number in range(len(rows["tokens"])):
                yield PackedRow(**{name: array[number] for name, array in rows.items()})
            self._table.forget()

    def _make(self, first: int, last: int) -> dict[str, np.ndarray]:
        """The arrays of rows `first` to `last` − 1, each [rows, L]: the examples side by side, the rest padding."""
        items = slice(*np.searchsorted(self._rows, (first, last)))
        length_J, row_J = self._lengths[items], self._rows[items] - first
        ends_J = np.cumsum(length_J)
        position_P = np.arange(ends_J[-1]) - np.repeat(ends_J - length_J, length_J)
        # Of a row's first item: its number, and the places that come before it in all rows.
        first_J = np.searchsorted(row_J, row_J)
        before_J = (ends_J - length_J) - (ends_J - length_J)[first_J]
        place_P = np.repeat(row_J * self._seq_len + before_J, length_J) + position_P
        source_P = np.repeat(self._table.starts[self._examples[items]], length_J) + position_P
        segment_J = np.arange(len(row_J)) - first_J + 1
        values = {
            "tokens": self._table.tokens[source_P],
            "targets": self._table.tokens[source_P + 1],
            "loss_mask": self._table.loss_mask[source_P + 1],
            "segment_ids": np.repeat(segment_J, length_J),
            "positions": position_P,
        }
        rows = {name: np.zeros((last - first, self._seq_len), dtype) for name, dtype in ROW_DTYPES.items()}
        for name, value_P in values.items():
            rows[name].reshape(-1)[place_P] = value_P
        return rows
