"""The benchmark of updates runs whole, on the CPU, with the contestants that the test extra brings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alpaca_jax.data.batches import TrainingBatches
from alpaca_jax.data.embedded import SEED_TASKS, TOKENIZER
from alpaca_jax.data.packed_dataset import open_packed_dataset
from alpaca_jax.model.presets import preset
from tools.bench_train_driver import Entrant
from tools.bench_train_report import figures
from tools.bench_train_worker import IGNORED, examples_of, padded

ROOT = Path(__file__).parents[2]


def bench(*flags: str) -> subprocess.CompletedProcess:
    command = [
        *(sys.executable, "-m", "tools.bench_train", "--config=configs/tiny.py:cpu", f"--input={SEED_TASKS}"),
        *(f"--config.mesh.{axis}=1" for axis in ("cpu_devices", "fsdp", "tensor")),
        *("--config.model.compute_dtype=float32", "--config.data.seq_len=128", "--config.train.batch_rows=2"),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    return subprocess.run([*command, *flags], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_same_updates_beside_each_other(tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'no module named trl' >&2\nexit 1\n")
    broken.chmod(0o755)
    flags = [f"--tokenizer={TOKENIZER}", "--recipe=float32", f"--trl={broken}", "--rounds=2", "--batch=3"]
    done = bench(*flags, f"--out={tmp_path / 'out'}", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    ours, recipe, *absent = report["results"]
    assert [ours["who"], recipe["who"]] == ["alpaca_jax", "the recipe"]
    # Three updates each, of the same weights on the same examples: as close as float32 is.
    assert len(ours["losses"]) == 3
    np.testing.assert_allclose(recipe["losses"], ours["losses"], rtol=2e-5)
    assert ours["losses"][0] == pytest.approx(np.log(2048), abs=0.1)
    assert recipe["first_loss_differs_by"] == abs(recipe["losses"][0] - ours["losses"][0])
    for line in (ours, recipe):
        assert 0.1 < line["peak_gib"] < 4
        assert line["seconds_to_first_update"] > 1
        assert len(line["tokens_per_second_of_rounds"]) == len(line["ours_over_this_of_rounds"]) == 2
    assert ours["ours_over_this"] == 1
    assert 0.5 < report["fill"] <= 1
    assert len(report["tokens"]) == 3
    # Who cannot run is said, with the reason.
    assert [(line["who"], line["absent"]) for line in absent] == [
        ("trl", "failed: no module named trl"),
        ("maxtext", "no interpreter was given (--maxtext=PYTHON)"),
        ("tunix", "no interpreter was given (--tunix=PYTHON)"),
    ]
    assert "no figures of trl, float32: failed: no module named trl" in done.stderr
    setting, *lines = map(json.loads, (tmp_path / "out/results.jsonl").read_text().splitlines())
    assert setting == {name: value for name, value in report.items() if name != "results"}
    assert lines == report["results"]
    assert (tmp_path / "out/losses.png").stat().st_size > 10_000


def test_weights_or_a_tokenizer_are_needed():
    done = bench()
    assert done.returncode == 2
    assert "--tokenizer: expected a tokenizer; found none" in done.stderr


def test_a_packed_batch_taken_apart(packed_rows):
    dataset = open_packed_dataset(packed_rows)
    batch = TrainingBatches(dataset, batch_rows=4, seed=0)[0]
    rows = {name: array[None] for name, array in batch.items()}
    examples = examples_of(rows, 0)
    assert len(examples) == batch["segment_ids"].max(axis=1).sum()
    assert sum(len(ids) - 1 for ids, _ in examples) == (batch["segment_ids"] > 0).sum()
    assert sum((labels != IGNORED).sum() for _, labels in examples) == batch["loss_mask"].sum()
    tokenizer = dataset.tokenizer()
    for ids, labels in examples:
        assert ids[0] == tokenizer.bos_id
        assert ids[-1] == labels[-1]
        trained = labels != IGNORED
        np.testing.assert_array_equal(ids[trained], labels[trained])
        assert tokenizer.decode(ids[~trained].tolist()).endswith("### Response:")
    assert sum(ids[-1] == tokenizer.eos_id for ids, _ in examples) > len(examples) / 2  # the others are cut
    tokens, labels, seen = padded(examples)
    assert tokens.shape == labels.shape == seen.shape == (len(examples), max(len(ids) for ids, _ in examples))
    assert seen.sum() == sum(len(ids) for ids, _ in examples)
    assert (labels[seen == 0] == IGNORED).all()


def test_figures_are_medians_over_rounds_of_the_same_updates():
    ours = Entrant("ours", "float32", "", "", turns=[[1.0, 1.0], [2.0, 2.0], [1.0, 3.0]], losses=[5.0])
    theirs = Entrant("theirs", "float32", "", "", turns=[[4.0, 4.0], [4.0, 4.0], [9.0, 3.0]], losses=[5.5])
    ours.facts = {"device": "NVIDIA H200", "devices": 1}
    work = {"tokens": [7, 10, 10, 20, 20, 30, 30], "attended": [0] * 7}
    model = preset("llama_7b")
    mine, other = figures([ours, theirs], work, model)
    assert other["tokens_per_second_of_rounds"] == [20 / 8, 40 / 8, 60 / 12]
    assert other["ours_over_this_of_rounds"] == [4, 2, 3]
    assert (other["ours_over_this"], other["tokens_per_second"]) == (3, 5)
    assert other["first_loss_differs_by"] == 0.5
    assert mine["mfu"] == pytest.approx(6 * model.num_parameters * 10 / 989e12)
