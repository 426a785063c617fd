"""Runs that are stopped, damaged, or meet numbers that are not finite: nothing is lost, and the result is the same."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.checkpoint.folder import CheckpointFolder
from alpaca_jax.checkpoint.store import Store
from alpaca_jax.data.batches import TrainingBatches
from alpaca_jax.data.packed_dataset import open_packed_dataset
from alpaca_jax.training import step as step_module
from tests.parallel.several import ends_of, started
from tests.programs import run, the_one_line
from tests.runs import TIMED, lines_of, parameters_of, train_flags, wait_for_lines, wait_until

STEPS = 6
# Two processes of two devices each.
TWO_OF_TWO = ("--config.mesh.cpu_devices=2", "--config.mesh.fsdp=2")


def go(data: Path, workdir: Path, *more: str) -> tuple[int, str]:
    """Exit code and standard error of a run like `one_process_run`."""
    code, _, err = run("train", *train_flags(data, workdir, f"--config.train.steps={STEPS}", *more))
    return code, err


def saved_steps(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("[0-9]*") if path.name.isdecimal())


def assert_same(workdir: Path, undisturbed: Path) -> None:
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert lines_of(workdir / name, TIMED) == lines_of(undisturbed / name, TIMED)
    jax.tree.map(np.testing.assert_array_equal, parameters_of(workdir), parameters_of(undisturbed))


@contextlib.contextmanager
def after_an_update(workdir: Path, act) -> Iterator[None]:
    """Acts, in another thread, as soon as the run in this process has written of its first update."""

    def wait() -> None:
        wait_for_lines(workdir / "metrics.jsonl", 1)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    yield
    thread.join()


@pytest.mark.parametrize(("number", "code", "who"), [(signal.SIGTERM, 75, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")])
def test_a_signal_saves_and_the_run_goes_on(
    number, code, who, one_process_run: Path, packed_rows: Path, tmp_path: Path
):
    workdir = tmp_path / "run"
    with after_an_update(workdir, lambda: os.kill(os.getpid(), number)):
        ended, err = go(packed_rows, workdir, "--config.checkpoint.every=100")
    assert ended == code, err
    reached = lines_of(workdir / "metrics.jsonl")[-1]["step"]
    assert saved_steps(workdir) == [reached]
    assert err.splitlines()[-1] == f"stopped by {who} after update {reached}, which is saved; run again to go on"
    assert reached < STEPS
    ended, err = go(packed_rows, workdir)
    assert ended == 0, err
    assert f"Going on after update {reached}" in err
    assert_same(workdir, one_process_run)


SIGNALS = """
import os, signal, sys, time
from alpaca_jax.support.program import run_program
from alpaca_jax.training.preemption import StopRequests
def main():
    with StopRequests() as stops:
        for number in sys.argv[1].split():
            stops.defer() if number == "defer" else os.kill(os.getpid(), int(number))
    sys.stderr.write(f"asked by {stops.after(1)}\\n")
run_program(main)
"""


@pytest.mark.parametrize(
    ("happens", "code", "says"),
    [
        ("15", 75, ["stopped by SIGTERM before the first update; run again to go on"]),
        ("2", 130, ["interrupted"]),
        ("defer 15 15", 0, ["asked by SIGTERM"]),
        ("defer 2", 0, ["finishing this update and saving; Ctrl-C again stops at once", "asked by Ctrl-C"]),
        ("defer 2 2", 130, ["finishing this update and saving; Ctrl-C again stops at once", "interrupted"]),
    ],
)
def test_signals_end_or_wait(happens: str, code: int, says: list[str]):
    ended = subprocess.run([sys.executable, "-c", SIGNALS, happens], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr.splitlines()) == (code, says)


def test_two_processes_stop_after_the_same_update(packed_rows: Path, tmp_path: Path):
    """SIGTERM reaches one of two; one alone then goes on, in two microbatches, with the same batches."""
    workdir = tmp_path / "run"
    flags = train_flags(packed_rows, workdir, "--config.train.steps=90", *TWO_OF_TWO)
    with started(2, "-m", "alpaca_jax.train", *flags, "--config.checkpoint.every=100") as both:
        wait_for_lines(workdir / "metrics.jsonl", 1)
        both[1].send_signal(signal.SIGTERM)
        ended = ends_of(both)
    assert [code for code, _ in ended] == [75, 75], ended
    (reached,) = saved_steps(workdir)
    said = [line for _, err in ended for line in err.splitlines() if "stopped by SIGTERM" in line]
    assert said
    assert all(f"after update {reached}, which is saved" in line for line in said)

    steps = f"--config.train.steps={reached + 2}"
    mesh = ("--config.mesh.fsdp=1", "--config.mesh.context=4", "--config.train.microbatches=2")
    assert run("train", *train_flags(packed_rows, workdir, steps, *mesh))[0] == 0
    assert run("train", *train_flags(packed_rows, tmp_path / "alone", steps))[0] == 0
    ours, alone = lines_of(workdir / "metrics.jsonl"), lines_of(tmp_path / "alone" / "metrics.jsonl")
    assert [line["target_tokens"] for line in ours] == [line["target_tokens"] for line in alone]
    np.testing.assert_allclose([line["loss"] for line in ours], [line["loss"] for line in alone], rtol=1e-6)


def test_one_of_two_that_dies_ends_the_other(packed_rows: Path, tmp_path: Path):
    workdir = tmp_path / "run"
    flags = train_flags(packed_rows, workdir, "--config.train.steps=400", *TWO_OF_TWO)
    with started(2, "-m", "alpaca_jax.train", *flags) as both:
        wait_until(lambda: saved_steps(workdir))  # a save is written while the next updates run
        both[1].kill()
        killed = time.monotonic()
        code, err = ends_of(both)[0]
        assert time.monotonic() - killed < 40
    assert code == 75, err
    assert err.splitlines()[-1].startswith("error: another process of this run has died; what was saved stands")
    assert saved_steps(workdir)


def test_a_damaged_save_is_passed_over(one_process_run: Path, packed_rows: Path, tmp_path: Path):
    workdir = tmp_path / "run"
    subprocess.run(["cp", "-r", one_process_run, workdir], check=True)
    largest = max((workdir / "checkpoints/6").rglob("*"), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    code, err = go(packed_rows, workdir)
    assert code == 0, err
    assert "The save of update 6 is damaged" in err
    assert "Going on after update 4" in err
    assert_same(workdir, one_process_run)


@pytest.mark.parametrize("key", ["data.seed", "train.seed", "train.batch_rows"])
def test_other_batches_than_those_it_was_begun_with_are_refused(one_process_run: Path, packed_rows: Path, key: str):
    before = sorted((path, path.stat().st_mtime) for path in one_process_run.rglob("*") if path.name == "metrics.jsonl")
    flags = train_flags(packed_rows, one_process_run, f"--config.{key}=8", "--config.train.steps=8")
    code, _, err = run("train", *flags)
    assert code == 2
    assert re.search(rf"error: config.{key}: expected \d+, with which .* was begun; found 8", err.splitlines()[-1])
    assert before == sorted((path, path.stat().st_mtime) for path in one_process_run.rglob("*") if path in dict(before))


def test_the_progress_is_in_the_save(one_process_run: Path):
    with Store(CheckpointFolder.open(one_process_run).path) as store:
        progress = store.progress(4)
    losses = [line["eval_loss"] for line in lines_of(one_process_run / "evaluations.jsonl") if 0 < line["step"] <= 4]
    assert (progress["step"], progress["data"]["next_batch"], progress["best_eval_loss"]) == (4, 4, min(losses))
    assert progress["config"]["train"]["batch_rows"] == progress["data"]["batch_rows"] == 4
    assert progress["tokenizer"] == CheckpointFolder.open(one_process_run).tokenizer_sha256


def bad_streak(data: Path) -> tuple[int, list[int]]:
    """A token, and the updates whose batches hold it: some two in a row, after one that stands alone."""
    batches = TrainingBatches(open_packed_dataset(data), 4, 0)
    held = [set(np.unique(batches[step]["tokens"])) for step in range(STEPS)]
    for token in sorted(set.union(*held)):
        updates = [step + 1 for step in range(STEPS) if token in held[step]]
        if updates in ([1, 3, 4], [2, 4, 5], [1, 4, 5], [1, 3, 4, 6], [2, 4, 5, 6]):
            return int(token), updates
    raise AssertionError("no such token")


def test_updates_that_are_not_finite_are_skipped_and_named(
    packed_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Batches with a certain token have no finite loss."""
    token, updates = bad_streak(packed_rows)
    alone, first = updates[0], updates[1]
    sums = step_module.summed_gradient

    def poisoned(definition, config, parameters, batch):
        loss, count, gradient = sums(definition, config, parameters, batch)
        return jnp.where((batch["tokens"] == token).any(), jnp.nan, loss), count, gradient

    monkeypatch.setattr(step_module, "summed_gradient", poisoned)
    workdir = tmp_path / "run"
    patient = ("--config.train.max_bad_updates=2", "--config.checkpoint.every=100")
    for times in range(2):
        code, err = go(packed_rows, workdir, *patient)
        assert code == 1, err
        assert (
            f"error: updates {first} to {first + 1} had a loss or gradient that is not finite" in err.splitlines()[-1]
        )
        assert ("Going on after" in err) == bool(times)
        assert saved_steps(workdir) == [first - 1]  # the state from before
        events = lines_of(workdir / "events.jsonl")
        assert [event["step"] for event in events] == [alone, first, first + 1]
        metrics = lines_of(workdir / "metrics.jsonl")
        assert [line["step"] for line in metrics if "skipped" in line] == [alone, first, first + 1]
        assert [line["loss"] is None for line in metrics] == ["skipped" in line for line in metrics]
    dataset = open_packed_dataset(packed_rows)
    source = dataset.source("train")
    for event in events:
        batch = TrainingBatches(dataset, 4, 0)[event["step"] - 1]
        np.testing.assert_array_equal(np.stack([source[row]["tokens"] for row in event["rows"]]), batch["tokens"])
        assert any(token in source[row]["tokens"] for row in event["rows"])

    code, err = go(packed_rows, workdir)  # five in a row are too many; these are fewer
    assert code == 0, err
    assert json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])["step"] == STEPS


def test_a_second_run_is_refused(packed_rows: Path, one_process_run: Path):
    hold = (
        "import sys, pathlib; from alpaca_jax.training.lock import sole_use\n"
        "with sole_use(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(one_process_run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        line = the_one_line("train", *train_flags(packed_rows, one_process_run, f"--config.train.steps={STEPS}"))
        assert f"expected a work directory that no other run is using; found process {holder.pid} on " in line
        holder.kill()
    code, err = go(packed_rows, one_process_run)
    assert code == 0
    assert "This run is done" in err


def test_data_that_are_damaged_while_they_are_read_are_one_line(packed_rows: Path, tmp_path: Path):
    workdir, data = tmp_path / "run", tmp_path / "data"
    subprocess.run(["cp", "-r", packed_rows, data], check=True)

    def cut() -> None:
        for file in data.glob("*train*array_record*"):
            os.truncate(file, 100)

    with after_an_update(workdir, cut):
        code, _, err = run("train", *train_flags(data, workdir, "--config.train.steps=400"))
    assert code == 2, err
    assert re.fullmatch(f"error: {data}: expected an undamaged packed dataset; found .*", err.splitlines()[-1])
    assert "Traceback" not in err
    code, _, err = run(
        "train", *train_flags(packed_rows, workdir, f"--config.train.steps={saved_steps(workdir)[-1] + 1}")
    )
    assert code == 0, err


def test_no_secret_is_written_down(packed_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    key = "hf_the-key-that-nobody-may-see"
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, key)
    workdir = tmp_path / "run"
    code, _, err = run("train", *train_flags(packed_rows, workdir, "--config.train.steps=1"))
    assert code == 0, err
    assert key not in err
    assert not [path for path in workdir.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]


def test_a_checkpoint_with_other_arrays_than_it_says_is_refused(
    one_process_run: Path, packed_rows: Path, tmp_path: Path
):
    """Its description is right for the preset; its arrays are half as wide."""
    elsewhere = tmp_path / "elsewhere"
    subprocess.run(["cp", "-r", one_process_run / "checkpoints", elsewhere], check=True)
    for step in elsewhere.glob("[0-9]*"):
        subprocess.run(["rm", "-r", step], check=True)
    narrow = jax.tree.map(lambda p: p[..., : p.shape[-1] // 2], parameters_of(one_process_run))
    with Store(elsewhere) as store:
        store.save(1, jax.tree.map(jnp.asarray, narrow))
    start = f"--config.model.checkpoint={elsewhere}"
    code, _, err = run("train", *train_flags(packed_rows, tmp_path / "run", "--config.train.steps=1", start))
    assert code == 2, err
    assert f"error: {elsewhere}/1: expected " in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_configuration_that_would_never_save_is_refused(packed_rows: Path, tmp_path: Path):
    for key in ("every", "keep"):
        line = the_one_line("train", *train_flags(packed_rows, tmp_path / "run", f"--config.checkpoint.{key}=0"))
        assert f"config.checkpoint.{key}: expected a number ≥ 1, or the run would never be saved; found 0" in line
    assert not (tmp_path / "run").exists()
