import itertools

import numpy as np
import pytest

from alpaca_jax.data.batches import TrainingBatches, epoch_batches
from alpaca_jax.data.packing import ROW_DTYPES
from alpaca_jax.support.errors import UserError


def assert_equal(a, b):
    assert a.keys() == b.keys() == ROW_DTYPES.keys()
    for name, dtype in ROW_DTYPES.items():
        assert a[name].dtype == dtype
        np.testing.assert_array_equal(a[name], b[name])


def rows_of(batch):
    """Each row of a batch as bytes, for counting."""
    return [b"".join(batch[name][row].tobytes() for name in ROW_DTYPES) for row in range(len(batch["tokens"]))]


def joined(batches):
    batches = list(batches)
    return {name: np.concatenate([batch[name] for batch in batches]) for name in ROW_DTYPES}


@pytest.mark.parametrize("step", [0, 5, 31, 10_007])
def test_a_batch_is_the_same_by_running_by_seeking_and_for_any_number_of_processes(packed, step):
    whole = TrainingBatches(packed, batch_rows=8, seed=7)
    assert whole[step]["tokens"].shape == (8, 256)
    assert_equal(whole[step], next(TrainingBatches(packed, batch_rows=8, seed=7).iterate(step)))
    for processes in (2, 4, 8):
        parts = [TrainingBatches(packed, 8, 7, process, processes)[step] for process in range(processes)]
        assert_equal(whole[step], joined(parts))


def test_running_passes_every_step_in_order(packed):
    batches = TrainingBatches(packed, batch_rows=8, seed=7)
    stream = batches.iterate(3)
    for step, batch in zip(range(3, 40), stream, strict=False):
        assert_equal(batch, batches[step])
    stream.close()


def test_an_epoch_holds_every_row_once_and_the_next_in_another_order(packed):
    rows = packed.num_rows("train")
    batches = TrainingBatches(packed, batch_rows=1, seed=7)
    stored = sorted(rows_of(joined(epoch_batches(packed, "train", 1))))
    epochs = [rows_of(joined([batches[epoch * rows + row] for row in range(rows)])) for epoch in range(3)]
    assert all(sorted(epoch) == stored for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_epochs_follow_without_a_gap(packed):
    rows = packed.num_rows("train")
    single, larger = TrainingBatches(packed, 1, 7), TrainingBatches(packed, rows - 1, 7)
    second_batch = joined([single[step] for step in range(rows - 1, 2 * (rows - 1))])
    assert_equal(larger[1], second_batch)


def test_the_seed_decides_the_order(packed):
    first = [rows_of(TrainingBatches(packed, 16, seed)[0]) for seed in (0, 0, 1, 2**32 - 1)]
    assert first[0] == first[1]
    assert len({tuple(rows) for rows in first}) == 3


@pytest.mark.parametrize("batch_rows", [1, 4, 1000])
def test_evaluation_sees_every_row_once_and_pads_the_last_batch(packed, batch_rows):
    source = packed.source("eval")
    batches = list(epoch_batches(packed, "eval", batch_rows))
    assert len(batches) == -(-len(source) // batch_rows)
    whole = joined(batches)
    for number in range(len(source)):
        assert_equal({name: whole[name][number] for name in ROW_DTYPES}, source[number])
    for name, dtype in ROW_DTYPES.items():
        assert whole[name].dtype == dtype
        assert whole[name].shape == (len(batches) * batch_rows, 256)
        assert not whole[name][len(source) :].any()


@pytest.mark.parametrize(("rows", "batches"), [(1, 1), (4, 1), (5, 2)])
def test_evaluation_of_the_first_rows_sees_no_other(packed, rows, batches):
    whole = joined(epoch_batches(packed, "eval", 4, rows=rows))
    assert whole["tokens"].shape == (4 * batches, 256)
    assert whole["segment_ids"].any(axis=1).tolist() == [place < rows for place in range(4 * batches)]


def test_evaluation_in_several_processes_is_the_same_batch_in_parts(packed):
    whole = list(epoch_batches(packed, "eval", 8))
    parts = [list(epoch_batches(packed, "eval", 8, process, 4)) for process in range(4)]
    for step, batch in enumerate(whole):
        assert_equal(batch, joined([part[step] for part in parts]))
    assert {len(part) for part in parts} == {len(whole)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"batch_rows": 6, "process_count": 4}, "multiple of the 4 process"),
        ({"batch_rows": 0}, "positive multiple"),
        ({"batch_rows": 10**6}, "at most the"),
        ({"batch_rows": 2, "seed": -1}, "from 0 to 4294967295"),
        ({"batch_rows": 2, "seed": 2**32}, "from 0 to 4294967295"),
    ],
)
def test_what_cannot_be_batched_is_refused(packed, arguments, said):
    with pytest.raises(UserError, match=said):
        TrainingBatches(packed, **{"seed": 0, **arguments})


def test_evaluation_refuses_before_it_starts(packed):
    with pytest.raises(UserError, match="'test'; found only train, eval"):
        epoch_batches(packed, "test", 2)
    with pytest.raises(UserError, match="multiple of the 3 process"):
        epoch_batches(packed, "eval", 4, 0, 3)


def test_a_stream_can_be_left_and_taken_up_again(packed):
    batches = TrainingBatches(packed, batch_rows=4, seed=1)
    stream = batches.iterate()
    first = list(itertools.islice(stream, 5))
    stream.close()
    again = list(itertools.islice(batches.iterate(2), 3))
    for a, b in zip(first[2:], again, strict=True):
        assert_equal(a, b)
