import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alpaca_jax.data.batches import TrainingBatches
from alpaca_jax.data.embedded import TOKENIZER
from alpaca_jax.data.packed_dataset import open_packed_dataset, write_packed_dataset
from alpaca_jax.data.packing import ROW_DTYPES, PackedRow
from alpaca_jax.data.tokenizer import load_tokenizer
from alpaca_jax.support.errors import UserError


def random_rows(count, seq_len=16, seed=0):
    generator = np.random.default_rng(seed)
    for _ in range(count):
        values = {name: generator.integers(0, 2000, seq_len).astype(dtype) for name, dtype in ROW_DTYPES.items()}
        yield PackedRow(**values)


def write_small(folder, seq_len=16, **metadata):
    rows = {"train": random_rows(40, seq_len), "eval": random_rows(3, seq_len, seed=1)}
    write_packed_dataset(folder, rows, seq_len, metadata, load_tokenizer(TOKENIZER))


def test_rows_come_back_as_they_were(tmp_path):
    write_small(tmp_path / "data", note={"é": [1, None]})
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "dataset_info.json",
        "features.json",
        "metadata.json",
        "packed_instructions-eval.array_record-00000-of-00001",
        "packed_instructions-train.array_record-00000-of-00001",
        "tokenizer",
    ]
    dataset = open_packed_dataset(tmp_path / "data")
    assert dataset.splits == ("train", "eval")
    assert (dataset.num_rows("train"), dataset.num_rows("eval"), dataset.seq_len) == (40, 3, 16)
    assert dataset.metadata["note"] == {"é": [1, None]}
    assert dataset.tokenizer().encode_prompt("a b") == load_tokenizer(TOKENIZER).encode_prompt("a b")
    for split, rows in (("train", random_rows(40)), ("eval", random_rows(3, seed=1))):
        source = dataset.source(split)
        for number, row in enumerate(rows):
            for name, dtype in ROW_DTYPES.items():
                assert source[number][name].dtype == dtype
                assert source[number][name].tolist() == getattr(row, name).tolist()
        with pytest.raises(IndexError):
            source[len(source)]


def test_plain_tfds_reads_it(packed):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(packed.folder)
    source = builder.as_data_source(split="train")
    assert builder.info.metadata["seq_len"] == 256
    assert builder.info.metadata["sources"][0]["name"] == "seed_tasks.jsonl"
    assert len(source) == packed.num_rows("train")
    assert all((source[5][name] == packed.source("train")[5][name]).all() for name in ROW_DTYPES)
    assert len(builder.as_data_source(split="train[:10]")) == 10


def test_the_same_rows_give_the_same_bytes_in_another_process(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_packed_dataset import write_small\n"
        "write_small(sys.argv[2], b=1, a=2)"
    )
    for name, seed in (("one", "1"), ("two", "2")):
        subprocess.run(
            [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / name)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
        )
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 6
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_nothing_is_left_where_the_rows_fail(tmp_path, monkeypatch):
    def failing():
        yield from random_rows(3)
        raise KeyError("from the rows")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(KeyError, match="from the rows"):
        write_packed_dataset(tmp_path / "data", {"train": failing()}, 16, {}, load_tokenizer(TOKENIZER))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", ["missing", "file", "empty folder", "other folder"])
def test_what_is_no_dataset_is_refused(tmp_path, bad):
    path = tmp_path / "data"
    if bad == "file":
        path.write_text("x")
    elif bad != "missing":
        path.mkdir()
    if bad == "other folder":
        (path / "metadata.json").write_text('{"format": "another"}')
    with pytest.raises(UserError, match="expected a packed dataset"):
        open_packed_dataset(path)


def test_another_format_version_template_or_length_is_refused(tmp_path):
    write_small(tmp_path / "data")
    path = tmp_path / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    for change, said in (
        ({"format_version": 2}, "expected format version 1; found version 2"),
        ({"template_sha256": "0" * 64}, "found another template (000000000000…)"),
        ({"seq_len": 32}, "features.json"),
        ({"vocab_size": None}, "vocab_size"),
    ):
        changed = {key: value for key, value in {**metadata, **change}.items() if value is not None}
        path.write_text(json.dumps(changed))
        with pytest.raises(UserError, match=re.escape(said)):
            open_packed_dataset(tmp_path / "data")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "features.json").unlink(),
        lambda folder: (folder / "dataset_info.json").write_text("{}"),
        lambda folder: (folder / "metadata.json").write_text("{"),
        lambda folder: next(folder.glob("*train.array_record*")).unlink(),
        lambda folder: next(folder.glob("*train.array_record*")).write_bytes(b""),
        lambda folder: cut(next(folder.glob("*eval.array_record*"))),
        lambda folder: shutil.copy(next(folder.glob("*eval.array_record*")), next(folder.glob("*train.array_record*"))),
    ],
    ids=["no features", "empty info", "cut metadata", "no records", "empty records", "cut records", "fewer records"],
)
def test_damage_is_found_on_opening(packed, tmp_path, damage):
    folder = tmp_path / "data"
    shutil.copytree(packed.folder, folder)
    damage(folder)
    with pytest.raises(UserError) as error:
        open_packed_dataset(folder)
    assert str(error.value).startswith(str(folder))
    assert "\n" not in str(error.value)


def test_a_flipped_bit_in_a_row_is_found_on_reading(packed, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(packed.folder, folder)
    records = next(folder.glob("*train.array_record*"))
    content = bytearray(records.read_bytes())
    content[2000] ^= 1
    records.write_bytes(content)
    with pytest.raises(UserError, match="undamaged"):
        [row for batch in TrainingBatches(open_packed_dataset(folder), 1, 0).iterate() for row in batch]


def test_a_changed_tokenizer_is_refused(packed, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(packed.folder, folder)
    (folder / "tokenizer" / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match="the tokenizer that made the dataset"):
        open_packed_dataset(folder).tokenizer()


def test_a_split_that_was_not_made(tmp_path):
    write_packed_dataset(tmp_path / "data", {"train": random_rows(2)}, 16, {}, load_tokenizer(TOKENIZER))
    with pytest.raises(UserError, match="'eval'; found only train"):
        open_packed_dataset(tmp_path / "data").source("eval")
