"""Whole runs of `train`: what they write, killing one and going on, and what they refuse."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from alpaca_jax.checkpoint.folder import CheckpointFolder
from alpaca_jax.checkpoint.store import Store
from alpaca_jax.data.embedded import SEED_TASKS, TOKENIZER
from alpaca_jax.data.preparation import Request, prepare
from alpaca_jax.data.prompt import TEMPLATES
from alpaca_jax.model.definition import define
from tests.programs import run, the_one_line
from tests.runs import RATES, TIMED, lines_of

CONFIG = "configs/tiny.py:cpu"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "packed"
    prepare(Request((SEED_TASKS,), TOKENIZER, seq_len=256, eval_fraction=0.1), folder)
    return folder


def flags(data: Path, workdir: Path, *more: str) -> list[str]:
    return [
        f"--config={CONFIG}",
        f"--workdir={workdir}",
        f"--config.data.path={data}",
        "--config.checkpoint.every=3",
        "--config.evaluation.every=4",
        "--config.samples.max_new_tokens=4",
        *more,
    ]


def byte_level_tokenizer(size: int) -> str:
    """A `tokenizer.json` with `size` ids: the bytes, an end token, and words that never occur."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "</s>"]
    pieces += [f"unused{number}" for number in range(size - len(pieces))]
    tokenizer = Tokenizer(models.BPE(vocab={piece: id for id, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer.to_str()


def parameters_of(workdir: Path) -> dict:
    folder = CheckpointFolder.open(workdir)
    shapes = define(folder.model).shapes
    with Store(folder.path) as store:
        return jax.tree.map(np.asarray, store.restore_parameters(shapes))


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 8 updates, never disturbed."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    code, _, err = run("train", *flags(data, workdir, "--config.train.steps=8"))
    assert code == 0, err
    return workdir


def test_a_run_leaves_what_it_promises(finished: Path, data: Path):
    metrics = lines_of(finished / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(1, 9))
    names = ["step", "loss", "grad_norm", "learning_rate", "target_tokens", "tokens", *RATES]
    names += ["device_memory_gib", "input_wait_seconds", "seconds", "goodput"]
    assert all(list(line) == names for line in metrics)
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert [line["step"] for line in lines_of(finished / "evaluations.jsonl")] == [0, 3, 4, 6, 8]
    (sample,) = lines_of(finished / "samples.jsonl")  # those of random weights would say nothing
    assert sample["step"] == 8
    assert len(sample["answers"]) == 5

    assert (finished / "loss.png").read_bytes().startswith(b"\x89PNG")
    described = json.loads((finished / "run.json").read_text())
    assert described["config"]["train"]["steps"] == 8
    assert described["dataset"]["seq_len"] == 256
    assert CheckpointFolder.open(finished).template == TEMPLATES["alpaca"]
    assert sorted(int(step.name) for step in (finished / "checkpoints").glob("[0-9]*")) == [6, 8]


def test_tensorboard_reads_the_events(finished: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "tensorboard"))
    events.Reload()
    loss = {event.step: event.value for event in events.Scalars("train/loss")}
    assert loss == pytest.approx({line["step"]: line["loss"] for line in lines_of(finished / "metrics.jsonl")})


def test_killed_and_started_again_it_ends_as_if_nothing_had_been(finished: Path, data: Path, tmp_path: Path):
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "alpaca_jax.train", *flags(data, workdir, "--config.train.steps=8")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    # Past the save at update 3, which the next run must go on from, and before the end.
    while not (workdir / "checkpoints" / "3").is_dir():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(lines_of(workdir / "metrics.jsonl")) < 8

    code, _, err = run("train", *flags(data, workdir, "--config.train.steps=8"))
    assert code == 0, err
    assert "Going on after update" in err
    for name in ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl"):
        assert lines_of(workdir / name, TIMED) == lines_of(finished / name, TIMED)
    jax.tree.map(np.testing.assert_array_equal, parameters_of(workdir), parameters_of(finished))

    code, _, err = run("train", *flags(data, workdir, "--config.train.steps=8"))
    assert code == 0
    assert "This run is done: 8 updates" in err
    assert lines_of(workdir / "metrics.jsonl", TIMED) == lines_of(finished / "metrics.jsonl", TIMED)


def test_more_updates_go_on_from_a_finished_run(finished: Path, data: Path, tmp_path: Path):
    workdir = tmp_path / "run"
    for steps in ("--config.train.steps=5", "--config.train.steps=8"):
        code, _, err = run("train", *flags(data, workdir, steps))
        assert code == 0, err
    assert lines_of(workdir / "metrics.jsonl", TIMED) == lines_of(finished / "metrics.jsonl", TIMED)
    jax.tree.map(np.testing.assert_array_equal, parameters_of(workdir), parameters_of(finished))


def test_training_starts_from_a_checkpoint(finished: Path, data: Path, tmp_path: Path):
    start = f"--config.model.checkpoint={finished}"
    code, _, err = run("train", *flags(data, tmp_path / "run", "--config.train.steps=1", start))
    assert code == 0, err
    first, last = lines_of(tmp_path / "run/evaluations.jsonl")[0], lines_of(finished / "evaluations.jsonl")[-1]
    assert first["eval_loss"] == last["eval_loss"]
    before, after = lines_of(tmp_path / "run/samples.jsonl")
    assert [before["step"], after["step"]] == [0, 1]
    assert before["answers"] == lines_of(finished / "samples.jsonl")[-1]["answers"]


def test_generate_reads_the_work_directory(finished: Path, tmp_path: Path):
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"instruction": "Who painted Guernica?", "id": 7}\n{"prompt": "Hello"}\n')
    common = (f"--checkpoint={finished}", "--max_new_tokens=3", "--temperature=0")
    code, _, err = run("generate", *common, f"--input={questions}", f"--out={tmp_path}/answers.jsonl")
    assert code == 0, err
    first, second = lines_of(tmp_path / "answers.jsonl")
    assert (first["id"], second["prompt"]) == (7, "Hello")
    assert run("generate", *common, "--instruction=Who painted Guernica?")[1] == first["output"] + "\n"
    assert run("generate", *common, "--prompt=Hello")[1] == second["output"] + "\n"


def test_what_does_not_fit_is_refused_before_any_work(data: Path, tmp_path: Path, finished: Path):
    other = CheckpointFolder.open(finished)
    elsewhere = tmp_path / "other"
    description = json.loads((other.path / "model.json").read_text())
    description["model"]["num_layers"] = 5
    elsewhere.mkdir()
    (elsewhere / "model.json").write_text(json.dumps(description))
    (tmp_path / "a_file").write_text("")
    (tmp_path / "tokenizer.json").write_text(byte_level_tokenizer(2304))
    larger_vocabulary = tmp_path / "larger_vocabulary"
    prepare(Request((SEED_TASKS,), tmp_path / "tokenizer.json", seq_len=2048), larger_vocabulary)

    workdir = tmp_path / "run"
    cases = {
        "mesh": ["--config.mesh.fsdp=3"],
        "batch_rows.*multiple of 4": ["--config.train.batch_rows=6"],
        "batch_rows: expected at most the": ["--config.train.batch_rows=4000"],
        "multiple of 16": ["--config.train.batch_rows=8", "--config.train.microbatches=4"],
        "tokenizer of at most 2048 ids.*one of 2304": [f"--config.data.path={larger_vocabulary}"],
        "num_layers: 5 ≠ 4": [f"--config.model.checkpoint={elsewhere}"],
        "num_layers|hidden_size": ["--config.model.preset=smollm2_135m", f"--config.model.checkpoint={finished}"],
        "expected gpu devices; found 8 × cpu": ["--config.mesh.platform=gpu"],
        "expected a saved step; found none among": [f"--config.model.checkpoint={finished}/99"],
        "up to 2047 tokens.*number 2": [f"--config.samples.instructions={('Hi.', 'word ' * 3000)!r}"],
        "no such folder": [f"--config.model.checkpoint={tmp_path}/absent"],
        "Did you mean 'tiny'": ["--config.model.preset=tony"],
        "absent": [f"--config.data.path={tmp_path}/absent"],
        "a_file": [f"--workdir={tmp_path}/a_file/run"],
        "/proc/": ["--workdir=/proc/run"],
        "--stpes": ["--stpes=3"],
    }
    for says, change in cases.items():
        line = the_one_line("train", *flags(data, workdir, *change))
        assert re.search(says, line), (says, line)
        assert not workdir.exists(), says


def test_a_work_directory_of_other_data_is_refused(finished: Path, tmp_path: Path):
    other = tmp_path / "other"
    prepare(Request((SEED_TASKS,), TOKENIZER, seq_len=256, seed=1, eval_fraction=0.1), other)
    before = sorted((path, path.stat().st_mtime) for path in finished.rglob("*"))
    assert "other data" in the_one_line("train", *flags(other, finished, "--config.train.steps=8"))
    assert before == sorted((path, path.stat().st_mtime) for path in finished.rglob("*"))


def test_a_checkpoint_s_folder_is_no_work_directory(finished: Path, data: Path):
    line = the_one_line("train", *flags(data, finished / "checkpoints"))
    assert "expected a work directory, new or of `train`; found the folder of a checkpoint" in line
    assert not (finished / "checkpoints" / "checkpoints").exists()


def test_what_is_refused_or_done_leaves_the_run_s_description(finished: Path, data: Path):
    before = (finished / "run.json").read_bytes()
    assert "config.train.seed: expected 0" in the_one_line("train", *flags(data, finished, "--config.train.seed=7"))
    code, _, err = run("train", *flags(data, finished, "--config.train.steps=2"))
    assert code == 0, err
    assert (finished / "run.json").read_bytes() == before


def test_another_template_than_the_checkpoint_s_is_refused(finished: Path, tmp_path: Path):
    other = tmp_path / "other"
    prepare(Request((SEED_TASKS,), TOKENIZER, seq_len=256, eval_fraction=0.1, template="zephyr"), other)
    line = the_one_line("train", *flags(other, tmp_path / "run", f"--config.model.checkpoint={finished}"))
    assert re.search(r"other: expected the template that .* was fine-tuned with, alpaca; found zephyr", line)
    line = the_one_line("generate", f"--checkpoint={finished}", "--instruction=Hi", "--template=zephyr")
    assert re.search(r"--template: expected the template that .* was fine-tuned with, alpaca; found zephyr", line)
    assert not (tmp_path / "run").exists()


def test_a_full_disk_ends_with_one_line_and_the_run_goes_on_later(data: Path, tmp_path: Path):
    """A limit on the size of a file stands for a full disk: it hits the save, which is the largest file."""
    workdir = tmp_path / "run"
    program = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000));"
        "sys.argv[0] = 'train'; runpy.run_module('alpaca_jax.train', run_name='__main__')"
    )
    command = [sys.executable, "-c", program, *flags(data, workdir, "--config.train.steps=4")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "/run/checkpoints: expected to write a checkpoint there; found file too large." in errors[0]
    with Store(CheckpointFolder.open(workdir).path) as store:
        assert store.latest_step() is None
    code, _, err = run("train", *flags(data, workdir, "--config.train.steps=4"))
    assert code == 0, err
