import json
import re
import subprocess
import sys
from pathlib import Path

from alpaca_jax.data.embedded import SEED_TASKS, TOKENIZER
from alpaca_jax.data.preparation import Request, prepare

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


def test_attention_is_checked_and_timed():
    said = run("bench_attention.py", "--shapes=2x256x4x2x16", "--rounds=1", "--seconds=0.01", "--json")
    lines = {line["kernel"]: line for line in json.loads(said)["results"]}
    assert 0 < lines["xla"]["error"] < 0.03
    assert lines["xla"]["milliseconds"] > 0
    assert "found cpu" in lines["splash"]["remark"]
