"""Batches of packed rows: shuffled, divided among processes, and the same whether reached by running or by seeking.

R: rows of one process in a batch; L: tokens in a row.
"""

import sys
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np

from alpaca_jax.data.packed_dataset import PackedDataset
from alpaca_jax.data.packing import ROW_DTYPES
from alpaca_jax.support.errors import UserError

# Two threads keep a trainer fed (a row is read in under 0.1 ms); more were never faster.
_THREADS = 2
_BATCHES_AHEAD = 8


class TrainingBatches:
    """An endless stream of training batches; the batch at step N is a function of (dataset, seed, batch_rows, N) alone.

    All rows of an epoch are shuffled, anew for each epoch, and the epochs follow each other without a gap: the global
    batch at step N is rows N·batch_rows … (N+1)·batch_rows − 1 of that stream. Process p of P takes the p-th contiguous
    P-th of these rows, so the processes' batches, laid end to end in their order, are the same global batch for any P.

    The state of the stream is the number of the next step.
    """

    def __init__(
        self, dataset: PackedDataset, batch_rows: int, seed: int, process_index: int = 0, process_count: int = 1
    ):
        """`batch_rows` are those of the global batch.

        Raises:
          UserError: a batch that does not divide among the processes or is larger than the dataset; a negative seed.
        """
        import grain

        self.rows_per_epoch = dataset.num_rows("train")
        self.batch_rows = batch_rows
        self._local_rows = _local_rows(batch_rows, process_index, process_count)
        self._offset = process_index * self._local_rows
        if batch_rows > self.rows_per_epoch:
            raise UserError(
                "batch_rows",
                expected=f"at most the {self.rows_per_epoch} rows of {dataset.folder}",
                found=str(batch_rows),
                remedy="take a smaller batch, shorter rows (prepare --seq_len) or more data",
            )
        if not 0 <= seed < 2**32:
            raise UserError(
                "seed", expected="a whole number from 0 to 4294967295", found=str(seed), remedy="choose one of these"
            )
        self._rows = grain.MapDataset.source(dataset.source("train")).seed(seed).shuffle().repeat()
        self._numbers = grain.MapDataset.range(self.rows_per_epoch).seed(seed).shuffle().repeat()

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """The part of this process in the batch at `step`: the arrays of `PackedRow`, each [R, L]."""
        if step < 0:
            raise IndexError(f"step {step}")
        first = step * self.batch_rows + self._offset
        return _stack([self._rows[first + row] for row in range(self._local_rows)])

    def row_numbers(self, step: int) -> list[int]:
        """The numbers in the dataset of all rows of the global batch at `step`, whichever process holds them."""
        first = step * self.batch_rows
        return [int(self._numbers[first + row]) for row in range(self.batch_rows)]

    def iterate(self, start_step: int = 0) -> Generator[dict[str, np.ndarray]]:
        """The batches from `start_step` on, read ahead off the main thread; any start takes the same time.

        `close` on the generator ends the reading.
        """
        import grain

        steps = grain.MapDataset.range(start_step, sys.maxsize)
        options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_BATCHES_AHEAD)
        batches = iter(steps.map(self.__getitem__).to_iter_dataset(options))
        try:
            yield from batches
        finally:
            batches.close()


def epoch_batches(
    dataset: PackedDataset,
    split: str,
    batch_rows: int,
    process_index: int = 0,
    process_count: int = 1,
    rows: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches that hold the first `rows` of a split, or all, exactly once, in stored order; the arrays are [R, L].

    The last batch is filled up with rows of zeros (segment 0, nothing trained). All processes get equally many batches.

    Raises:
      UserError: no such split, or a batch that does not divide among the processes.
    """
    local_rows = _local_rows(batch_rows, process_index, process_count)
    source = dataset.source(split)
    wanted = len(source) if rows is None else min(rows, len(source))
    return _epoch(source, dataset.seq_len, wanted, batch_rows, process_index * local_rows, local_rows)


def _epoch(
    source: Any, seq_len: int, rows: int, batch_rows: int, offset: int, local_rows: int
) -> Iterator[dict[str, np.ndarray]]:
    empty = {name: np.zeros(seq_len, dtype) for name, dtype in ROW_DTYPES.items()}
    for start in range(0, rows, batch_rows):
        numbers = range(start + offset, start + offset + local_rows)
        yield _stack([source[number] if number < rows else empty for number in numbers])


def _local_rows(batch_rows: int, process_index: int, process_count: int) -> int:
    """The rows of one process in a batch."""
    if not 0 <= process_index < process_count:
        raise ValueError(f"process {process_index} of {process_count}")
    if batch_rows < 1 or batch_rows % process_count:
        raise UserError(
            "batch_rows",
            expected=f"a positive multiple of the {process_count} process(es)",
            found=str(batch_rows),
            remedy="change the batch size or the number of processes",
        )
    return batch_rows // process_count


def _stack(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([row[name] for row in rows]) for name in ROW_DTYPES}
