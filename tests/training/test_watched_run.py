"""A run that is profiled, and whose TensorBoard and Weights & Biases are dead, is the same run."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from alpaca_jax.checkpoint.folder import CheckpointFolder
from alpaca_jax.checkpoint.store import Store
from alpaca_jax.training import wandb_sink
from tests.programs import run, the_one_line
from tests.runs import TIMED, fake_wandb, lines_of, parameters_of, train_flags

BLOCKS = """
import time
class Run:
    def log(self, values, step):
        time.sleep(0 if step < 2 else 1e6)
def init(**options):
    return Run()
"""
KEY = "the-key-that-nobody-may-see"


@pytest.fixture(scope="module")
def watched(packed_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run of `one_process_run` once more, with samples, and what it said."""
    folder = tmp_path_factory.mktemp("watched")
    workdir = folder / "run"
    workdir.mkdir()
    (workdir / "tensorboard").write_text("a file, so that no event can be written")
    flags = [
        "--config.train.steps=6",
        "--config.logging.profile_steps=(3,4)",
        "--config.logging.wandb_project=llamas",
        "--config.samples.instructions=('Who painted Guernica?',)",
        "--config.samples.every=3",
        "--config.samples.max_new_tokens=2",
        "--config.evaluation.every=0",
    ]
    with pytest.MonkeyPatch.context() as monkeypatch:
        fake_wandb(BLOCKS, folder / "fake", monkeypatch)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setattr(wandb_sink, "_PATIENCE_SECONDS", 1.0)
        code, _, err = run("train", *train_flags(packed_rows, workdir, *flags))
    assert code == 0, err
    return workdir, err


def test_it_ends_with_the_same_numbers(watched: tuple[Path, str], one_process_run: Path):
    workdir, _ = watched
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert lines_of(workdir / name, TIMED) == lines_of(one_process_run / name, TIMED)
    jax.tree.map(np.testing.assert_array_equal, parameters_of(workdir), parameters_of(one_process_run))


def test_it_says_what_was_lost(watched: tuple[Path, str]):
    workdir, err = watched
    assert f"{workdir}/tensorboard cannot be written (file exists): no more events" in err
    lost = (
        f"has not got 8 of 10 lines (it was not done after 1 s; see {workdir}/wandb.log)"  # six, and four evaluations
    )
    assert f"Weights & Biases {lost}" in err


def test_the_trace_is_there(watched: tuple[Path, str]):
    workdir, err = watched
    (trace,) = (workdir / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 10_000
    assert f"profile of updates 3 to 4: pip install xprof, then xprof --logdir={workdir}/profile" in err


def test_nobody_sees_the_key(watched: tuple[Path, str]):
    workdir, err = watched
    assert KEY not in err
    assert not [path for path in workdir.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_answers_are_those_of_the_weights_at_that_time(watched: tuple[Path, str]):
    """The generator is made once; what `generate` makes of the saves says whether it had the weights of the moment."""
    workdir, _ = watched
    samples = lines_of(workdir / "samples.jsonl")
    assert [line["step"] for line in samples] == [3, 6]
    asked = ("--instruction=Who painted Guernica?", "--temperature=0", "--max_new_tokens=2", "--dtype=float32")
    _, out, _ = run("generate", f"--checkpoint={workdir}", *asked)
    assert out == samples[1]["answers"]["Who painted Guernica?"] + "\n"


def test_times_add_up(watched: tuple[Path, str]):
    workdir, err = watched
    lines = lines_of(workdir / "metrics.jsonl")
    assert all(min(line["seconds"], line["input_wait_seconds"]) > 0 for line in lines)
    assert all(line["tokens_per_second"] == line["tokens"] / line["seconds"] for line in lines)
    assert all(line["target_tokens_per_second"] == line["target_tokens"] / line["seconds"] for line in lines)
    assert all(0 < line["goodput"] < 1 for line in lines)
    assert all(line["device_memory_gib"] is None for line in lines)  # a CPU does not say
    (told,) = [line for line in err.splitlines() if line.startswith("where the ")]
    assert "compilation" in told
    assert "goodput" in told


def test_each_save_has_the_loss_of_its_evaluation(watched: tuple[Path, str]):
    workdir, err = watched
    losses = {line["step"]: line["eval_loss"] for line in lines_of(workdir / "evaluations.jsonl")}
    assert list(losses) == [0, 2, 4, 6]
    saved = {
        int(path.parent.parent.name): json.loads(path.read_text())
        for path in (workdir / "checkpoints").glob("*/metrics/metrics")
    }
    assert saved == {step: {"eval_loss": losses[step]} for step in (2, 4, 6)}
    with Store(CheckpointFolder.open(workdir).path) as store:
        best = store.best_step()
    assert best == min(saved, key=lambda step: losses[step])
    assert f"lowest held-out loss of a save: after update {best}, --checkpoint={workdir}/best" in err


def test_a_profile_of_nothing_is_refused(packed_rows: Path, tmp_path: Path):
    for steps in ("(5,4)", "(0,2)", "(3,)", "(1,'a')"):
        flags = train_flags(packed_rows, tmp_path / "run", f"--config.logging.profile_steps={steps}")
        assert "(first, last)" in the_one_line("train", *flags), steps
    assert not (tmp_path / "run").exists()
