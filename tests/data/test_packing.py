import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca_jax.data import packing
from alpaca_jax.data.example_table import ExampleTable, ExampleTableWriter
from alpaca_jax.data.examples import Example
from alpaca_jax.data.packing import ROW_DTYPES, PackedRow, PackedRows, best_fit_decreasing

# An example as (prompt length, response length with eos); every token of all examples gets a different id.
SHAPES = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), max_size=40)


def examples_of(shapes):
    start = 1
    for prompt, response in shapes:
        tokens = np.arange(start, start + prompt + response, dtype=np.int32)
        start += prompt + response
        yield Example(tokens, np.arange(len(tokens)) >= prompt)


def pack(examples, seq_len):
    rows = PackedRows(ExampleTable.of(examples), np.arange(len(examples)), seq_len)
    made = list(rows)
    assert len(made) == len(rows)
    assert rows.filled_places == sum(int((row.segment_ids > 0).sum()) for row in made)
    return made


def test_columns_of_the_docstring():
    lines = [line.split() for line in PackedRow.__doc__.splitlines() if line.startswith(" " * 8)]
    columns = {name: cells for name, *cells in lines if name in ROW_DTYPES}
    ids = {"A": 10, "B": 11, "c": 12, "d": 13, "E": 20, "f": 21, "$": 2, ".": 0}
    first = Example(np.array([ids[t] for t in "ABcd$"], np.int32), np.array([0, 0, 1, 1, 1], bool))
    second = Example(np.array([ids[t] for t in "Ef$"], np.int32), np.array([0, 1, 1], bool))
    (row,) = pack([first, second], seq_len=8)
    assert columns.keys() == ROW_DTYPES.keys()
    for name, cells in columns.items():
        expected = [ids[cell] if cell in ids else int(cell) for cell in cells]
        assert getattr(row, name).tolist() == expected, name
        assert getattr(row, name).dtype == ROW_DTYPES[name]


@settings(deadline=None)
@given(SHAPES, st.integers(23, 60))
def test_every_example_lies_once_and_whole_in_a_segment_of_its_own(shapes, seq_len):
    examples = list(examples_of(shapes))
    found = []
    for row in pack(examples, seq_len):
        segments = row.segment_ids[row.segment_ids > 0]
        assert row.segment_ids.tolist() == [*segments, *[0] * (seq_len - len(segments))]
        assert sorted(set(segments)) == list(range(1, segments.max() + 1))
        assert (np.diff(segments) >= 0).all()
        padding = row.segment_ids == 0
        assert not any(getattr(row, name)[padding].any() for name in ROW_DTYPES)
        for segment in range(1, segments.max() + 1):
            inside = row.segment_ids == segment
            assert row.positions[inside].tolist() == list(range(inside.sum()))
            tokens, targets = row.tokens[inside], row.targets[inside]
            found.append(([*tokens, targets[-1]], row.loss_mask[inside].tolist()))
            assert targets[:-1].tolist() == tokens[1:].tolist()
    expected = [(e.tokens.tolist(), e.loss_mask[1:].tolist()) for e in examples]
    assert sorted(found) == sorted(expected)


@settings(deadline=None)
@given(SHAPES, st.integers(23, 60))
def test_every_trained_token_is_a_target_once_after_its_own_prompt(shapes, seq_len):
    examples = list(examples_of(shapes))
    trained = {int(t): e for e in examples for t in e.tokens[e.loss_mask]}
    seen = []
    for row in pack(examples, seq_len):
        for place in np.flatnonzero(row.loss_mask):
            target, begin = int(row.targets[place]), place - row.positions[place]
            seen.append(target)
            context = [*row.tokens[begin : place + 1], target]
            assert context == trained[target].tokens[: len(context)].tolist()
    assert sorted(seen) == sorted(trained)


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), max_size=80), st.integers(50, 70))
def test_best_fit_decreasing_is_what_its_definition_says(lengths, capacity):
    row_of = best_fit_decreasing(np.array(lengths, int), capacity).tolist()
    free = []
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [(space, row) for row, space in enumerate(free) if space >= lengths[item]]
        if fitting:
            tightest = min(fitting)[0]
        else:
            tightest = capacity
            assert row_of[item] == len(free)
            free.append(capacity)
        # Among equally full rows any choice is a best fit; follow the one taken, and check that it is one of them.
        assert free[row_of[item]] == tightest
        free[row_of[item]] -= lengths[item]


def test_rows_are_full_at_real_lengths():
    # Lengths distributed like Alpaca's: log-normal with median 111 and 95% below 241.
    lengths = np.random.default_rng(0).lognormal(np.log(111), 0.47, 4000).clip(20, 512).astype(int)
    for capacity, least in ((512, 0.985), (2048, 0.995)):
        rows = best_fit_decreasing(lengths, capacity).max() + 1
        assert lengths.sum() / (rows * capacity) >= least


@pytest.mark.parametrize("length", [0, -1, 9])
def test_lengths_that_fit_no_row_are_refused(length):
    with pytest.raises(ValueError, match="between 1 and 8"):
        best_fit_decreasing(np.array([3, length]), 8)


@settings(deadline=None)
@given(SHAPES.filter(len), st.integers(23, 60), st.data())
def test_of_a_table_on_disk_the_chosen_are_packed_as_often_as_chosen(tmp_path_factory, shapes, seq_len, data):
    examples = list(examples_of(shapes))
    chosen = data.draw(st.lists(st.integers(0, len(examples) - 1), max_size=60))
    with ExampleTableWriter(tmp_path_factory.mktemp("table") / "new") as writer:
        for few in (examples[:3], examples[3:]):
            part = ExampleTable.of(few)
            writer.append(part.tokens, part.loss_mask, part.lengths)
        table = writer.table()
    found = []
    # Two rows at a time, so that a few examples already take several turns.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_PLACES_AT_ONCE", 2 * seq_len)
        for row in PackedRows(table, np.array(chosen, int), seq_len):
            found += [int(row.tokens[place]) for place in np.flatnonzero((row.segment_ids > 0) & (row.positions == 0))]
    assert sorted(found) == sorted(int(examples[number].tokens[0]) for number in chosen)
