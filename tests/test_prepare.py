import json
import os
import re
import subprocess
import sys

import pytest

from alpaca_jax import prepare
from alpaca_jax.data.embedded import SEED_TASKS, TOKENIZER
from alpaca_jax.data.instructions import read_records
from alpaca_jax.data.packed_dataset import open_packed_dataset
from alpaca_jax.data.prompt import render_prompt
from alpaca_jax.data.tokenizer import load_tokenizer
from alpaca_jax.support.program import run_program
from tests.checkpoints import write_checkpoint

GOOD = '{"instruction": "Name a fruit.", "input": "", "output": "Apple"}\n'


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs `prepare` with flags, as from a terminal; gives the exit code and what went to the two outputs."""

    def run(*flags, **more):
        flags = [*flags, *(f"--{name}={value}" for name, value in more.items() if value is not None)]
        monkeypatch.setattr(sys, "argv", ["prepare", *flags])
        with pytest.raises(SystemExit) as end:
            run_program(prepare.main)
        return end.value.code, *capsys.readouterr()

    return run


def texts_in(folder):
    """The text of every example in a packed dataset by split, put together again from its rows."""
    dataset = open_packed_dataset(folder)
    tokenizer, found = dataset.tokenizer(), {}
    for split in dataset.splits:
        found[split] = []
        for row in dataset.source(split):
            for segment in range(1, row["segment_ids"].max() + 1):
                inside = row["segment_ids"] == segment
                trained = row["targets"][inside & row["loss_mask"]]
                assert trained[-1] == tokenizer.eos_id
                found[split].append(
                    (tokenizer.decode(row["tokens"][inside][: -len(trained) + 1]), tokenizer.decode(trained))
                )
    return found


def test_every_record_comes_through_whole(run, tmp_path):
    code, out, err = run("--json", input=SEED_TASKS, tokenizer=TOKENIZER, seq_len=1024, out=tmp_path / "d")
    counts = json.loads(out.splitlines()[-1])
    assert code == 0
    assert list(counts) == ["records", "kept", "dropped", "truncated", "tokens", "target_tokens", "rows", "fill"]
    assert "error" not in err
    tasks = [located.record for located in read_records(SEED_TASKS)]
    assert (counts["records"], counts["kept"], counts["dropped"], counts["truncated"]) == (
        len(tasks),
        len(tasks),
        {},
        0,
    )
    # Prompts begin with the space that a SentencePiece tokenizer invents.
    expected = sorted((" " + render_prompt(task.instruction, task.input), task.output) for task in tasks)
    assert sorted(texts_in(tmp_path / "d")["train"]) == expected


def test_the_tokenizer_may_be_a_checkpoints_or_a_runs(run, tmp_path):
    write_checkpoint(tmp_path / "run" / "checkpoints")
    for place, out in (("run", "first"), ("run/checkpoints", "second")):
        code, _, err = run(input=SEED_TASKS, tokenizer=tmp_path / place, seq_len=512, out=tmp_path / out)
        assert code == 0, err
        assert open_packed_dataset(tmp_path / out).tokenizer().sha256 == load_tokenizer(TOKENIZER).sha256


def test_the_counts_are_those_of_the_rows(run, tmp_path):
    _, out, _ = run("--json", input=SEED_TASKS, tokenizer=TOKENIZER, seq_len=128, out=tmp_path / "d", eval_fraction=0.3)
    counts = json.loads(out)
    dataset = open_packed_dataset(tmp_path / "d")
    rows = [row for split in dataset.splits for row in dataset.source(split)]
    filled = sum(int((row["segment_ids"] > 0).sum()) for row in rows)
    assert counts["rows"] == len(rows)
    assert counts["tokens"] == filled
    assert counts["target_tokens"] == sum(int(row["loss_mask"].sum()) for row in rows)
    assert counts["fill"] == pytest.approx(filled / (len(rows) * 128), abs=1e-6)
    assert counts["kept"] == sum(int(row["segment_ids"].max()) for row in rows)
    assert counts["kept"] + counts["dropped"]["prompt_too_long"] == counts["records"]
    assert counts["truncated"] > 0


def test_a_record_never_changes_side(run, tmp_path):
    lines = [json.dumps({"instruction": f"Say {i}.", "output": f"It is {i}."}) for i in range(400)]
    few, many = tmp_path / "few.jsonl", tmp_path / "many.jsonl"
    few.write_text("\n".join(lines[:200]))
    many.write_text("\n".join(reversed(lines)))
    flags = {"tokenizer": TOKENIZER, "seq_len": 128}
    run(input=few, out=tmp_path / "a", eval_fraction=0.1, seed=0, **flags)
    run(input=many, out=tmp_path / "b", eval_fraction=0.1, seed=5, **flags)
    run(input=many, out=tmp_path / "c", eval_fraction=0.2, seed=5, **flags)
    a, b, c = (texts_in(tmp_path / name) for name in "abc")
    assert set(a["eval"]) == set(a["eval"] + a["train"]) & set(b["eval"])
    assert set(b["eval"]) < set(c["eval"])
    assert not set(b["eval"]) & set(b["train"])
    assert 20 <= len(b["eval"]) <= 60


def test_the_seed_decides_which_records_share_a_row(run, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(input=SEED_TASKS, tokenizer=TOKENIZER, seq_len=256, out=tmp_path / name, seed=seed)
    rows = {
        name: [row["tokens"].tolist() for row in open_packed_dataset(tmp_path / name).source("train")] for name in "abc"
    }
    assert rows["a"] == rows["b"] != rows["c"]


def test_several_inputs_and_both_forms(run, tmp_path):
    (tmp_path / "a.jsonl").write_text(GOOD)
    (tmp_path / "b.json").write_text(
        json.dumps([{"instruction": "Name a tree.", "output": "Oak"}, {"instruction": "x", "output": " "}])
    )
    flags = (f"--input={tmp_path / 'a.jsonl'}", f"--input={tmp_path / 'b.json'}", "--json")
    _, out, _ = run(*flags, tokenizer=TOKENIZER, seq_len=256, out=tmp_path / "d")
    counts = json.loads(out)
    assert (counts["records"], counts["kept"], counts["dropped"]) == (3, 2, {"empty_output": 1})
    sources = open_packed_dataset(tmp_path / "d").metadata["sources"]
    assert [(source["name"], source["records"]) for source in sources] == [("a.jsonl", 1), ("b.json", 2)]


def test_the_same_again_is_left_alone_and_another_is_refused(run, tmp_path):
    flags = {"input": SEED_TASKS, "tokenizer": TOKENIZER, "seq_len": 256, "out": tmp_path / "d", "eval_fraction": 0.1}
    _, first, _ = run("--json", **flags)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "d").rglob("*")}
    code, again, _ = run("--json", **flags)
    assert (code, again) == (0, first)
    code, said, _ = run(**flags)
    assert code == 0
    assert "already prepared" in said
    for change, name in (
        ({"seq_len": 128}, "seq_len 128"),
        ({"seed": 1}, "seed 1"),
        ({"eval_fraction": 0.2}, "0.2"),
        ({"weights": "2"}, "weights .2.0."),
        ({"tokenization": "stanford"}, "tokenization 'stanford'"),
        ({"template": "llama2"}, "template "),
    ):
        code, out, err = run(**{**flags, **change})
        assert (code, out) == (2, "")
        assert re.fullmatch(rf"error: .*/d: expected .*{name}.*\n", err)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "d").rglob("*")} == before


def test_the_summary_is_for_people(run, tmp_path):
    (tmp_path / "a.jsonl").write_text(GOOD + 5 * GOOD.replace("Apple", ""))
    (tmp_path / "b.jsonl").write_text(GOOD.replace("fruit", "pear"))
    flags = (f"--input={tmp_path / 'a.jsonl'}", f"--input={tmp_path / 'b.jsonl'}")
    code, out, _ = run(*flags, weights="1,3", tokenizer=TOKENIZER, seq_len=256, out=tmp_path / "d")
    assert code == 0
    assert re.search(r"kept +2 +dropped: 5 empty_output; truncated: 0", out)
    assert "a.jsonl: 6 records\n" in out
    assert "b.jsonl: 3 examples (weight 3) from 1 of 1 records\n" in out
    assert "    a.jsonl, line 2: empty_output\n    a.jsonl, line 3: empty_output\n" in out
    assert f"2 more in {tmp_path / 'd' / 'rejected.jsonl'}\n" in out
    assert re.search(r"rows +1 ", out)


@pytest.mark.parametrize(
    ("content", "change", "said"),
    [
        (None, {}, "data.jsonl: .* no such file"),
        ("", {}, "no record at all"),
        ("[]", {}, "no record at all"),
        ("name,age\n", {}, "line 1: .*JSON"),
        (GOOD + '{"instruction": "a"}', {}, "line 2: .*`output`"),
        (GOOD.replace("Apple", ""), {}, "1 records, all dropped .1 empty_output"),
        (GOOD, {"seq_len": 8}, "all dropped .1 prompt_too_long"),
        (GOOD, {"seq_len": 0}, "--seq_len"),
        (GOOD, {"seq_len": "many"}, "seq_len.*many"),
        (GOOD, {"seq_len": None}, "seq_len"),
        (GOOD, {"seed": -1}, "--seed"),
        (GOOD, {"eval_fraction": 1}, "--eval_fraction"),
        (GOOD, {"eval_fraction": "nan"}, "--eval_fraction"),
        (GOOD, {"eval_fraction": 0.9999}, "none of 1 records in train"),
        (GOOD, {"eval_fraction": 0.0001}, "none of 1 records in eval"),
        (GOOD, {"weights": "1,2"}, "--weights: expected 1 numbers .* found 1,2"),
        (GOOD, {"weights": "0"}, "--weights: .*not all 0"),
        (GOOD, {"weights": "-1"}, "--weights"),
        (GOOD, {"weights": "nan"}, "--weights: .*found nan"),
        (GOOD, {"weights": "1001"}, "from 0 to 1000"),
        (GOOD, {"weights": "1,x"}, "--weights: expected numbers with commas"),
        (GOOD, {"template": "vicuna"}, "--template: .*alpaca, chatml"),
        (GOOD, {"template": "chatml"}, "<.im_start.>"),
        (GOOD, {"tokenization": "fast"}, "--tokenization: expected exact or stanford"),
        (GOOD, {"tokenizer": "{tmp}/data.jsonl"}, "tokenizer"),
        (GOOD, {"tokenizer": "{tmp}/none.model"}, "none.model: .*no such file"),
        (GOOD, {"tokenizer": "{tmp}"}, "found neither"),
        (GOOD, {"out": "{tmp}/data.jsonl"}, "expected a folder"),
        (GOOD, {"out": "{tmp}/data.jsonl/x"}, "expected a folder"),
        (GOOD, {"out": "{tmp}"}, "a new or empty folder"),
        (GOOD, {"lenght": 3}, "--lenght"),
    ],
)
def test_bad_input_gives_one_line_and_no_output(run, tmp_path, monkeypatch, content, change, said):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if content is not None:
        (tmp_path / "data.jsonl").write_text(content)
    before = sorted(tmp_path.rglob("*"))
    flags = {"input": tmp_path / "data.jsonl", "tokenizer": TOKENIZER, "seq_len": 256, "out": tmp_path / "new" / "d"}
    change = {name: str(value).format(tmp=tmp_path) if value is not None else None for name, value in change.items()}
    code, out, err = run(**{**flags, **change})
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"error: .*{said}.*\n", err)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_place_that_cannot_be_written_is_refused_before_the_work(run):
    # Nobody may make a file in /proc, not even root.
    code, _, err = run(input="absent.json", tokenizer=TOKENIZER, seq_len=256, out="/proc/d")
    assert code == 2
    assert re.fullmatch(r"error: /proc/d: expected .*\n", err)


def test_a_full_disk_is_one_line(run, tmp_path, monkeypatch):
    from alpaca_jax.data import tfds_builder

    class FullDisk:
        def __init__(self, path, options):
            open(path, "w").close()

        def write(self, record):
            pass

        def close(self):
            raise RuntimeError("Failed to finalize: write() failed: No space left on device; writing x; at byte 9")

    monkeypatch.setattr(tfds_builder, "ArrayRecordWriter", FullDisk)
    code, _, err = run(input=SEED_TASKS, tokenizer=TOKENIZER, seq_len=256, out=tmp_path / "d")
    assert code == 2
    assert err.splitlines()[-1].startswith("error: ")
    assert "no space left on device. Free some room" in err
    assert list(tmp_path.iterdir()) == []


def test_from_a_shell(tmp_path):
    (tmp_path / "a.jsonl").write_text(GOOD)
    program = [sys.executable, "-m", "alpaca_jax.prepare", f"--tokenizer={TOKENIZER}", "--seq_len=256"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    flags = [f"--input={tmp_path / 'a.jsonl'}", f"--out={tmp_path / 'd'}", "--json"]
    end = subprocess.run([*program, *flags], env=environment, capture_output=True, text=True, check=False)
    assert end.returncode == 0, end.stderr
    assert json.loads(end.stdout)["rows"] == 1
    assert end.stderr == "writing rows 1/1\n"  # and not a word from TFDS, absl or protobuf
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "d"]
    end = subprocess.run([*program, "--help"], env=environment, capture_output=True, text=True, check=False)
    assert end.returncode == 0
    assert len(end.stdout.splitlines()) < 40
    assert max(map(len, end.stdout.splitlines())) <= 120
