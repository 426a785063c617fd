import hashlib
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
from alpaca_jax.data.prompt import template_named
from alpaca_jax.data.tokenizer import load_tokenizer
from alpaca_jax.support.errors import UserError


def random_rows(count, seq_len=16, seed=0):
    generator = np.random.default_rng(seed)
    return [
        PackedRow(**{name: generator.integers(0, 2000, seq_len).astype(dtype) for name, dtype in ROW_DTYPES.items()})
        for _ in range(count)
    ]


def write(folder, rows, seq_len=16, metadata=None, beside=()):
    alpaca = template_named("alpaca")
    write_packed_dataset(folder, rows, seq_len, metadata or {}, load_tokenizer(TOKENIZER), alpaca, beside)


def write_small(folder, seq_len=16, beside=(), **metadata):
    rows = {"train": random_rows(40, seq_len), "eval": random_rows(3, seq_len, seed=1)}
    write(folder, rows, seq_len, metadata, beside)


def test_rows_come_back_as_they_were(tmp_path):
    (tmp_path / "rejected.jsonl").write_text("{}")
    write_small(tmp_path / "data", beside=[tmp_path / "rejected.jsonl"], note={"é": [1, None]})
    assert os.listdir(tmp_path) == ["data"]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "dataset_info.json",
        "features.json",
        "metadata.json",
        "packed_instructions-eval.array_record-00000-of-00001",
        "packed_instructions-train.array_record-00000-of-00001",
        "rejected.jsonl",
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


PLAIN_READER = """
import hashlib, json, sys
import tensorflow_datasets as tfds

builder = tfds.builder_from_directory(sys.argv[1])
by_name = tfds.data_source("packed_instructions", split="train", data_dir=sys.argv[2])
sources = [builder.as_data_source(split="train"), by_name]
digests = []
for source in sources:
    digest = hashlib.sha256()
    for row in source:
        for name in ("tokens", "targets", "loss_mask", "segment_ids", "positions"):
            digest.update(row[name].tobytes())
    digests.append(digest.hexdigest())
print(json.dumps({
    "digests": digests,
    "rows": [len(source) for source in sources],
    "shards": builder.info.splits["train"].num_shards,
    "some": len(builder.as_data_source(split="train[3:10]")),
    "metadata": dict(builder.info.metadata),
    "ours": [name for name in sys.modules if name.split(".")[0] in ("alpaca_jax", "tensorflow")],
}))
"""


def read_plainly(folder):
    """What tensorflow-datasets alone, in a process of its own and without TensorFlow, makes of a dataset."""
    version = folder.parent / "plain" / "packed_instructions" / "1.0.0"
    version.parent.mkdir(parents=True)
    version.symlink_to(folder)
    program = [sys.executable, "-c", PLAIN_READER, str(folder), str(folder.parent / "plain")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    end = subprocess.run(program, cwd=folder.parent, env=environment, capture_output=True, text=True, check=False)
    assert end.returncode == 0, end.stderr
    return json.loads(end.stdout.splitlines()[-1])


def digest_of(rows):
    digest = hashlib.sha256()
    for row in rows:
        for name in ROW_DTYPES:
            digest.update(np.ascontiguousarray(getattr(row, name)).tobytes())
    return digest.hexdigest()


def test_plain_tfds_reads_it_by_folder_and_by_name(tmp_path):
    rows = random_rows(40)
    write(tmp_path / "data", {"train": rows}, metadata={"note": "kept"})
    found = read_plainly(tmp_path / "data")
    assert found["digests"] == [digest_of(rows)] * 2
    assert (found["rows"], found["some"], found["ours"]) == ([40, 40], 7, [])
    assert found["metadata"]["note"] == "kept"
    assert found["metadata"]["template_sha256"] == template_named("alpaca").sha256


def test_a_row_is_encoded_as_tfds_does_it():
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.example_serializer import ExampleSerializer
    from tensorflow_datasets.proto import tf_example_pb2

    from alpaca_jax.data.tfds_builder import decode_row, encode_row

    (row,) = random_rows(1)
    features = tfds.features.FeaturesDict(
        {name: tfds.features.Tensor(shape=(16,), dtype=dtype, encoding="bytes") for name, dtype in ROW_DTYPES.items()}
    )
    arrays = {name: getattr(row, name) for name in ROW_DTYPES}
    theirs = ExampleSerializer(features.get_serialized_info()).serialize_example(features.encode_example(arrays))
    parse = tf_example_pb2.Example.FromString
    assert parse(encode_row(row)) == parse(theirs)
    for name, array in decode_row(encode_row(row)).items():
        assert array.dtype == ROW_DTYPES[name]
        assert array.tolist() == arrays[name].tolist()


LARGE_WRITER = """
import sys
import numpy as np
from alpaca_jax.data.packing import ROW_DTYPES, PackedRow
from test_packed_dataset import write

class Rows:
    def __len__(self):
        return 63

    def __iter__(self):
        for number in range(63):
            yield PackedRow(**{name: np.full(2**20, number, dtype) for name, dtype in ROW_DTYPES.items()})

write(sys.argv[1], {"train": Rows()}, 2**20)
# Not ru_maxrss, which begins with what the parent had.
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def test_a_split_beyond_what_tfds_holds_in_memory(tmp_path):
    # TFDS's own writer goes through temporary files, by way of TensorFlow, above 1,048,576,000 bytes.
    program = [sys.executable, "-c", LARGE_WRITER, str(tmp_path / "data")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    end = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert end.returncode == 0, end.stderr
    assert int(end.stdout.split()[-1]) < 400 * 1024  # KiB, of a split of 1 GB
    dataset = open_packed_dataset(tmp_path / "data")
    source = dataset.source("train")
    info = json.loads((tmp_path / "data" / "dataset_info.json").read_text())["splits"][0]
    assert int(info["numBytes"]) > 1_048_576_000
    assert len(info["shardLengths"]) > 1
    assert [int(source[number]["tokens"][-1]) for number in range(len(source))] == list(range(63))


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
    class Failing(list):
        def __iter__(self):
            yield self[0]
            raise KeyError("from the rows")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(KeyError, match="from the rows"):
        write(tmp_path / "data", {"train": Failing(random_rows(3))})
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
        ({"format_version": 1}, "expected format version 2; found version 1"),
        ({"template_sha256": "0" * 64}, "found another template (000000000000…)"),
        ({"template": "chatml"}, "another template"),
        ({"template": None}, "another template"),
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
    write(tmp_path / "data", {"train": random_rows(2)})
    with pytest.raises(UserError, match="'eval'; found only train"):
        open_packed_dataset(tmp_path / "data").source("eval")
