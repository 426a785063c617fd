import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from alpaca_jax.data.embedded import SEED_TASKS, TOKENIZER
from alpaca_jax.data.preparation import Request, prepare
from alpaca_jax.data.tokenizer import load_tokenizer
from tests.checkpoints import write_checkpoint

ROOT = Path(__file__).parents[2]


def run(tool, *flags):
    program = [sys.executable, str(ROOT / "tools" / tool), *flags]
    end = subprocess.run(program, cwd=ROOT, env={"PYTHONPATH": "."}, capture_output=True, text=True, check=False)
    assert end.returncode == 0, end.stderr
    return end.stdout


def test_preparation_is_timed_on_as_many_records_as_asked_for():
    said = run("bench_prepare.py", f"--input={SEED_TASKS}", f"--tokenizer={TOKENIZER}", "--records=300", "--rounds=0")
    assert re.search(r"prepare +\d+\.\d\d s  \(processors .* peak \d+ MiB\)  \{'records': 300, ", said)


def test_the_loader_is_timed(tmp_path):
    prepare(Request((SEED_TASKS,), TOKENIZER, seq_len=256), tmp_path / "data")
    said = run("bench_loader.py", f"--data={tmp_path / 'data'}", "--seconds=0.2", "--rounds=1")
    assert re.search(r"rows of 256, batches of 8: median \d+\.\d M places/s, \d+\.\d M tokens/s", said)


def test_the_start_is_timed(tmp_path):
    (timed,) = json.loads(run("bench_start.py", "--rounds=1", "--json"))["runs"]
    assert timed["folder"] == str(ROOT)
    assert 1 < timed["seconds"][0] < 300
    program = [sys.executable, str(ROOT / "tools/bench_start.py"), f"--against={tmp_path}"]
    end = subprocess.run(program, cwd=ROOT, env={"PYTHONPATH": "."}, capture_output=True, text=True, check=False)
    assert end.returncode == 2
    assert f"no alpaca_jax/train.py in {tmp_path}" in end.stderr


def test_attention_is_checked_and_timed():
    said = run("bench_attention.py", "--shapes=2x256x4x2x16", "--rounds=1", "--seconds=0.01", "--json")
    lines = {line["kernel"]: line for line in json.loads(said)["results"]}
    assert 0 < lines["xla"]["error"] < 0.03
    assert lines["xla"]["milliseconds"] > 0
    assert "found cpu" in lines["splash"]["remark"]


def test_decoding_is_timed_in_equal_steps_and_on_real_instructions(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "tiny")
    flags = (f"--checkpoint={checkpoint}", "--batches=2", "--ours=float32", "--theirs=", "--rounds=1", "--json")
    (step,) = json.loads(run("bench_generate.py", *flags, "--new_tokens=5", "--prompt_tokens=9"))["results"]
    assert step["tokens_per_second"] == pytest.approx(2 / step["seconds"])
    assert step["held_bytes"] >= step["needed_bytes"] > step["step_bytes"] > 0  # rows of the embedding are not all read
    instructions = [{"instruction": f"Count to {end}.", "output": "one two " * end} for end in (1, 2, 3)]
    (tmp_path / "three.json").write_text(json.dumps(instructions))
    of_three = (f"--input={tmp_path / 'three.json'}", "--records=3")
    (whole,) = json.loads(run("bench_generate.py", *flags, *of_three))["results"]
    tokenizer = load_tokenizer(TOKENIZER)
    tokens = sum(len(tokenizer.encode_prompt(each["output"])) + 1 for each in instructions)
    assert whole["tokens_per_second"] == pytest.approx(tokens / whole["seconds"])
