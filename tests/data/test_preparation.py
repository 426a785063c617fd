import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest

from alpaca_jax.data import tokenising
from alpaca_jax.data.embedded import SEED_TASKS, TOKENIZER
from alpaca_jax.data.packed_dataset import open_packed_dataset
from alpaca_jax.data.preparation import Request, prepare
from alpaca_jax.data.tokenising import TokenisedChunk, shuffled
from alpaca_jax.support.errors import UserError


def records(path, numbers):
    lines = [json.dumps({"instruction": f"Say {i}.", "output": f"It is {i}."}) for i in numbers]
    path.write_text("\n".join(lines))
    return path


def prepared(folder, *inputs, **options):
    metadata, _ = prepare(Request(inputs, TOKENIZER, **{"seq_len": 128, **options}), folder)
    return metadata


def answers_in(folder):
    """How often each answer lies in the rows, by split."""
    dataset = open_packed_dataset(folder)
    tokenizer, found = dataset.tokenizer(), {}
    for split in dataset.splits:
        found[split] = Counter()
        for row in dataset.source(split):
            for segment in range(1, row["segment_ids"].max() + 1):
                trained = (row["segment_ids"] == segment) & row["loss_mask"]
                found[split][tokenizer.decode(row["targets"][trained])] += 1
    return found


def bytes_in(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_several_processes_make_the_same_bytes_as_one(tmp_path, monkeypatch):
    inputs = (SEED_TASKS, records(tmp_path / "b.jsonl", range(30)))
    options = {"eval_fraction": 0.2, "weights": (1, 1.5), "seed": 4}
    prepared(tmp_path / "one", *inputs, **options)
    monkeypatch.setattr(tokenising, "_RECORDS_AT_ONCE", 10)
    prepared(tmp_path / "several", *inputs, **options)
    assert bytes_in(tmp_path / "one") == bytes_in(tmp_path / "several")


def test_an_error_in_another_process_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenising, "_RECORDS_AT_ONCE", 10)
    with pytest.raises(UserError, match="im_start"):
        prepared(tmp_path / "new" / "d", SEED_TASKS, template="chatml")
    assert list(tmp_path.iterdir()) == []


def test_a_fault_at_the_end_of_a_file_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenising, "_RECORDS_AT_ONCE", 10)
    path = records(tmp_path / "a.jsonl", range(40))
    path.write_text(path.read_text() + "\n{}")
    with pytest.raises(UserError, match=r"a\.jsonl, line 41"):
        prepared(tmp_path / "d", path)
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_a_weight_says_how_often_a_record_is_packed(tmp_path):
    often, seldom = records(tmp_path / "a.jsonl", range(100)), records(tmp_path / "b.jsonl", range(1000, 1400))
    unread = tmp_path / "c.jsonl"
    unread.write_text("not read at all")
    metadata = prepared(tmp_path / "d", often, seldom, unread, weights=(2.5, 0.25, 0))
    (found,) = answers_in(tmp_path / "d").values()
    times = [[found[f"It is {i}."] for i in numbers] for numbers in (range(100), range(1000, 1400))]
    assert set(times[0]) == {2, 3}
    assert set(times[1]) == {0, 1}
    assert 30 <= times[0].count(3) <= 70
    assert 70 <= times[1].count(1) <= 130
    counts, kept = metadata["counts"], 100 + times[1].count(1)
    assert (counts["records"], counts["kept"], counts["dropped"]) == (500, kept, {"left_out_by_weight": 500 - kept})
    assert counts["examples"] == found.total()
    by_source = [(s["weight"], s["records"], s["kept"], s["examples"]) for s in metadata["sources"]]
    assert by_source == [(2.5, 100, 100, sum(times[0])), (0.25, 400, sum(times[1]), sum(times[1])), (0, 0, 0, 0)]
    assert (tmp_path / "d" / "rejected.jsonl").read_text() == ""
    prepared(tmp_path / "other", often, seldom, weights=(2.5, 0.25), seed=1)
    assert answers_in(tmp_path / "other")["train"] != found


def test_copies_of_a_record_are_all_on_one_side(tmp_path):
    a, b = records(tmp_path / "a.jsonl", range(60)), records(tmp_path / "b.jsonl", range(30, 90))
    prepared(tmp_path / "d", a, b, weights=(2, 1.5), eval_fraction=0.3)
    found = answers_in(tmp_path / "d")
    assert not found["train"].keys() & found["eval"].keys()
    assert len(found["train"].keys() | found["eval"].keys()) == 90
    assert max(found["eval"].values()) >= 3


def test_rejected_records_are_named_with_their_places(tmp_path):
    task = {"instruction": "Name one.", "instances": [{"output": "x"}, {"output": " "}]}
    long = {"instruction": "word " * 200, "output": "x"}
    (tmp_path / "a.jsonl").write_text("\n" + json.dumps(task) + "\n" + json.dumps(long))
    (tmp_path / "b.json").write_text('[\n{"instruction": "a", "output": "b"},\n{"instruction": "a", "output": ""}]')
    metadata = prepared(tmp_path / "d", tmp_path / "a.jsonl", tmp_path / "b.json")
    assert metadata["counts"]["dropped"] == {"empty_output": 2, "prompt_too_long": 1}
    lines = [json.loads(line) for line in (tmp_path / "d" / "rejected.jsonl").read_text().splitlines()]
    assert lines == [
        {"file": "a.jsonl", "line": 2, "record": 1, "reason": "empty_output", "instance": 2},
        {"file": "a.jsonl", "line": 3, "record": 2, "reason": "prompt_too_long"},
        {"file": "b.json", "line": 3, "record": 2, "reason": "empty_output"},
    ]


def test_the_way_of_tokenising_is_kept_with_the_rows(tmp_path):
    metadata = prepared(tmp_path / "d", SEED_TASKS, seq_len=512, tokenization="stanford", template="llama2")
    assert (metadata["tokenization"], metadata["template"]) == ("stanford", "llama2")
    assert open_packed_dataset(tmp_path / "d").template.name == "llama2"


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_shuffling_gives_every_number_once_in_an_order_of_the_seed(count):
    orders = [shuffled(count, seed).tolist() for seed in (0, 1, 2**70)]
    assert all(sorted(order) == list(range(count)) for order in orders)
    assert count < 3 or len(set(map(tuple, orders))) == 3


def test_the_order_is_the_one_it_always_was():
    assert shuffled(8, 0).tolist() == [0, 5, 3, 4, 1, 6, 2, 7]


class ThousandTokens:
    """Work that makes much of little."""

    def __call__(self, chunk):
        count = len(chunk.records)
        return TokenisedChunk(
            left_out=0,
            rejected=[],
            tokens=np.ones(1000 * count, np.int32),
            loss_mask=np.ones(1000 * count, np.bool_),
            lengths=np.full(count, 1000, np.int32),
            copies=np.ones(count, np.int32),
            held_out=np.zeros(count, np.bool_),
            truncated=np.zeros(count, np.bool_),
            targets=np.full(count, 999, np.int32),
        )


MANY = """
import resource, sys
from pathlib import Path
import numpy as np
from alpaca_jax.data.collection import collect
from alpaca_jax.data.packing import PackedRows
from test_preparation import ThousandTokens

def peak():  # not ru_maxrss, which begins with what the process had that started this one
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

if __name__ == "__main__":
    before, folder = peak(), Path(sys.argv[1])
    inherited = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    collection = collect(ThousandTokens(), [(folder / "many.jsonl", 1.0)], folder)
    rows = PackedRows(collection.table, np.arange(40_000), 2048)
    assert sum(1 for _ in rows) == 20_000
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(peak() - before, (children - inherited) / 1024)
"""


def test_memory_does_not_grow_with_the_tokens(tmp_path):
    records(tmp_path / "many.jsonl", range(40_000))
    (tmp_path / "program.py").write_text(MANY)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    program = [sys.executable, str(tmp_path / "program.py"), str(tmp_path)]
    end = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert end.returncode == 0, end.stderr
    parent, children = map(float, end.stdout.split())
    # There are 40 million tokens, 191 MiB of them with their masks.
    assert parent < 80
    assert children < 80


def test_ctrl_c_in_the_middle_leaves_nothing(tmp_path):
    path = records(tmp_path / "a.jsonl", range(40_000))
    flags = [f"--input={path}", f"--tokenizer={TOKENIZER}", "--seq_len=128", f"--out={tmp_path / 'd'}"]
    program = subprocess.Popen(
        [sys.executable, "-m", "alpaca_jax.prepare", *flags],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    written = []
    while not written and program.poll() is None:
        time.sleep(0.02)
        written = [file for file in tmp_path.glob(".d.*/tokens/*") if file.stat().st_size]
    family = psutil.Process(program.pid).children(recursive=True)
    os.killpg(program.pid, signal.SIGINT)  # as a terminal does
    _, err = program.communicate(timeout=60)
    assert (program.returncode, err) == (130, "interrupted\n")
    assert len(family) >= 2 or len(os.sched_getaffinity(0)) == 1  # a lone processor does it all in one process
    assert psutil.wait_procs(family, timeout=60)[1] == []
    assert os.listdir(tmp_path) == ["a.jsonl"]
