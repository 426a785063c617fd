"""Packs examples of many lengths into rows of one length; inputs and targets are shifted by one here and only here.

L: tokens in a row; n: tokens of one example, which fill n − 1 places, since the last token is only a target.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from alpaca_jax.data.examples import Example


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


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Distributes items over rows of `capacity`: the longest first, each into the fullest row that still has room.

    Equal lengths keep their order, and of equally full rows the one last filled is taken, so the result depends on
    nothing but the arguments. Rows are numbered in the order in which they were opened.

    The rows' free space is kept as the bits of one integer: the smallest free space that is large enough is its lowest
    set bit at or above the length, found in capacity/64 machine words whatever the number of rows.

    Returns:
      For each row the indices of its items.

    Raises:
      ValueError: a length that is not between 1 and `capacity`.
    """
    rows: list[list[int]] = []
    rows_with_space: list[list[int]] = [[] for _ in range(capacity + 1)]
    spaces = 0  # bit s is set while some row has exactly s free places
    for item in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = int(lengths[item])
        if not 1 <= length <= capacity:
            raise ValueError(f"item {item}: expected a length between 1 and {capacity}, found {length}")
        large_enough = spaces >> length
        if large_enough:
            space = length + (large_enough & -large_enough).bit_length() - 1
            row = rows_with_space[space].pop()
            if not rows_with_space[space]:
                spaces ^= 1 << space
        else:
            space, row = capacity, len(rows)
            rows.append([])
        rows[row].append(item)
        rows_with_space[space - length].append(row)
        spaces |= 1 << (space - length)
    return rows


def pack(examples: Sequence[Example], seq_len: int) -> Iterator[PackedRow]:
    """Rows of `seq_len` that hold each example once and whole.

    Raises:
      ValueError: an example of fewer than 2 or more than `seq_len + 1` tokens.
    """
    lengths = [len(example.tokens) - 1 for example in examples]
    for members in best_fit_decreasing(lengths, seq_len):
        yield _row([examples[index] for index in members], seq_len)


def _row(examples: Sequence[Example], seq_len: int) -> PackedRow:
    """The examples side by side in one row, the rest of it padding."""
    row = {name: np.zeros(seq_len, dtype) for name, dtype in ROW_DTYPES.items()}
    start = 0
    for segment, example in enumerate(examples, start=1):
        stop = start + len(example.tokens) - 1
        row["tokens"][start:stop] = example.tokens[:-1]
        row["targets"][start:stop] = example.tokens[1:]
        row["loss_mask"][start:stop] = example.loss_mask[1:]
        row["segment_ids"][start:stop] = segment
        row["positions"][start:stop] = np.arange(stop - start)
        start = stop
    return PackedRow(**row)
