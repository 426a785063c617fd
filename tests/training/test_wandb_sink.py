"""Weights & Biases gets what it takes in time; whatever else it does, the run neither waits nor fails."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from alpaca_jax.training import wandb_sink
from alpaca_jax.training.wandb_sink import WandbSink
from tests.runs import fake_wandb

WORKS = """
import json, os
def init(**options):
    print("this is no acknowledgement")
    file = open(os.environ["FAKE_WANDB_SEES"], "a")
    print(json.dumps(options), file=file, flush=True)
    class Run:
        def log(self, values, step):
            print(json.dumps([step, values]), file=file, flush=True)
        def finish(self):
            print(json.dumps("finished"), file=file, flush=True)
    return Run()
"""
BLOCKS = "import time\ndef init(**options):\n    time.sleep(1e6)\n"
FAILS = "def init(**options):\n    raise RuntimeError('no such project')\n"


def test_it_gets_everything_and_goes_on_in_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    fake_wandb(WORKS, tmp_path / "fake", monkeypatch)
    monkeypatch.setenv("FAKE_WANDB_SEES", str(tmp_path / "seen"))
    for resume_at in (0, 2, 0):
        sink = WandbSink(tmp_path, "llamas", {"train": {"seed": 0}}, resume_at)
        for step in (resume_at + 1, resume_at + 2):
            sink.write(step, {"train/loss": 1 / step})
        sink.close()
    seen = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    assert seen[1:4] == [[1, {"train/loss": 1.0}], [2, {"train/loss": 0.5}], "finished"]
    assert seen[5:8] == [[3, {"train/loss": 1 / 3}], [4, {"train/loss": 0.25}], "finished"]
    first, continued, other = seen[0], seen[4], seen[8]
    assert first.items() >= {"project": "llamas", "config": {"train": {"seed": 0}}, "dir": str(tmp_path)}.items()
    assert first == continued != other
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("source", "why"), [(BLOCKS, "it was not done after 1 s"), (FAILS, "it failed")])
def test_one_that_is_dead_costs_one_line(
    source: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    fake_wandb(source, tmp_path / "fake", monkeypatch)
    monkeypatch.setattr(wandb_sink, "_PATIENCE_SECONDS", 1.0)
    began = time.monotonic()
    sink = WandbSink(tmp_path, "llamas", {}, 0)
    for step in range(1, 3001):  # more than any pipe holds
        sink.write(step, {"train/loss": 1 / step, "train/grad_norm": 1.0, "train/tokens": 1000.0})
    assert time.monotonic() - began < 2
    sink.close()
    assert time.monotonic() - began < 10
    assert capsys.readouterr().err.splitlines() == [
        f"Weights & Biases has not got 3000 of 3000 lines ({why}; see {tmp_path}/wandb.log); metrics.jsonl has them all"
    ]
    assert ("no such project" in (tmp_path / "wandb.log").read_text()) == (source == FAILS)


PARENT = """
import subprocess, sys, time
child = "import alpaca_jax.training.wandb_process as w; w.SECONDS_TO_FINISH = 0; w.main()"
process = subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE)
process.stdin.write(b"{}\\n")
process.stdin.flush()
print(process.pid, flush=True)
time.sleep(1e6)
"""


def test_a_sink_that_hangs_does_not_outlive_a_killed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    began = f"open({str(tmp_path / 'began')!r}, 'w').close()"
    fake_wandb(BLOCKS.replace("    time", f"    {began}\n    time"), tmp_path / "fake", monkeypatch)
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent:
        child = psutil.Process(int(parent.stdout.readline()))
        while not (tmp_path / "began").exists():
            assert child.is_running()
            time.sleep(0.05)
        parent.kill()
    psutil.wait_procs([child], timeout=30)
    assert not child.is_running()
