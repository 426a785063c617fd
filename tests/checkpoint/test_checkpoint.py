"""Checkpoint folders: back as they were on any mesh, and refused when they are not what they should be."""

import gc
import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from alpaca_jax.checkpoint.folder import CheckpointFolder, template_to_use
from alpaca_jax.checkpoint.store import Store, abstract_parameters
from alpaca_jax.data.embedded import TOKENIZER
from alpaca_jax.data.prompt import TEMPLATES
from alpaca_jax.data.tokenizer import load_tokenizer
from alpaca_jax.model.config import ModelConfig
from alpaca_jax.model.definition import define
from alpaca_jax.parallel.mesh import make_mesh
from alpaca_jax.parallel.sharding import parameter_shardings
from alpaca_jax.support.errors import UserError
from tests.models import SMALL as MODEL


def on_mesh(data: int, fsdp: int, tensor: int):
    definition = define(MODEL)
    mesh = make_mesh({"data": data, "fsdp": fsdp, "tensor": tensor})
    return definition, parameter_shardings(mesh, definition.logical_axes, definition.shapes)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("work") / "checkpoints"
    folder = CheckpointFolder.create(
        path, MODEL, load_tokenizer(TOKENIZER), provenance={"a": 1}, template=TEMPLATES["zephyr"]
    )
    definition, shardings = on_mesh(1, 4, 2)
    parameters = jax.jit(definition.initialise, static_argnums=0, out_shardings=shardings)(0)
    losses = {1: 0.5, 2: 0.25, 3: 0.5, 4: 0.25, 5: float("nan"), 6: 0.125, 7: 0.5, 8: None}
    with Store(folder.path, keep=2, keep_best=2) as store:
        for step, loss in losses.items():
            store.save(step, jax.tree.map(lambda p, step=step: p * step, parameters), eval_loss=loss)
    return path


@pytest.mark.parametrize("mesh", [(8, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_parameters_come_back_bit_for_bit_on_any_mesh(saved: Path, mesh: tuple[int, int, int]):
    definition, shardings = on_mesh(*mesh)
    with Store(saved) as store:
        assert store.latest_step() == 8
        restored = store.restore_parameters(abstract_parameters(definition.shapes, shardings, np.float32))
    expected = jax.tree.map(lambda p: p * 8, jax.jit(definition.initialise, static_argnums=0)(0))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(jax.device_get(a), b), restored, expected)
    placed = jax.tree.map(lambda leaf, place: leaf.sharding.is_equivalent_to(place, leaf.ndim), restored, shardings)
    assert all(jax.tree.leaves(placed))


def test_the_newest_and_the_best_are_kept(saved: Path):
    assert sorted(step.name for step in saved.glob("[0-9]*")) == ["4", "6", "7", "8"]  # 4 is as good as 2, and newer


@pytest.mark.parametrize(("name", "step"), [("", 8), ("best", 6), ("4", 4)])
def test_a_step_is_chosen_by_the_end_of_the_path(saved: Path, name: str, step: int):
    for path in (saved / name, saved.parent / name):
        folder = CheckpointFolder.open(path)
        assert folder.path == saved
        definition, shardings = on_mesh(1, 8, 1)
        with Store(folder.path) as store:
            assert store.find(folder.step) == step
            restored = store.restore_parameters(
                abstract_parameters(definition.shapes, shardings, np.float32), folder.step
            )
        np.testing.assert_array_equal(restored["final_norm"]["scale"], np.full(MODEL.hidden_size, step, np.float32))


def test_a_step_that_is_not_there_is_refused(saved: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"3: expected a saved step; found none among 4, 6, 7, 8\. .*/8\."):
        find(saved / "3")
    with pytest.raises(UserError, match="no such folder"):
        CheckpointFolder.open(saved / "worst")
    with pytest.raises(UserError, match="no such folder"):
        CheckpointFolder.open(tmp_path / "best")
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy, ignore=shutil.ignore_patterns("metrics", "4", "7", "8"))
    with pytest.raises(UserError, match=r"best: expected a save with a held-out loss; found none among 6\. .*/6\."):
        find(copy / "best")
    shutil.rmtree(copy / "6")
    with pytest.raises(UserError, match="at least one saved step"):
        find(copy / "best")


def find(path: Path) -> int:
    folder = CheckpointFolder.open(path)
    with Store(folder.path) as store:
        return store.find(folder.step)


def test_the_work_directory_stands_for_its_checkpoints(saved: Path):
    assert CheckpointFolder.open(saved) == CheckpointFolder.open(saved.parent)
    assert CheckpointFolder.open(saved).tokenizer().encode_prompt("Hello") == load_tokenizer(TOKENIZER).encode_prompt(
        "Hello"
    )


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path):
    small = ModelConfig(**(MODEL.to_json() | {"vocab_size": 2000}))
    with pytest.raises(UserError, match=r"at most 2000 ids.*one of 2048"):
        CheckpointFolder.create(tmp_path / "c", small, load_tokenizer(TOKENIZER), provenance={}, template=None)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "format 1"),
        ({"template_sha256": "0" * 64}, "prompt template 'zephyr'.*another template"),
        ({"template": "alpaca"}, "prompt template 'alpaca'.*another template"),
        ({"template": "of the future"}, "one of alpaca, chatml"),
        ({"model": {"vocab_size": 3}}, "missing"),
        ({"model": MODEL.to_json() | {"num_heads": "four"}}, "num_heads"),
        ({"tokenizer_sha256": "0" * 64}, "tokenizer with SHA-256"),
    ],
)
def test_a_changed_description_is_refused(saved: Path, tmp_path: Path, change: dict, says: str):
    (tmp_path / "tokenizer").symlink_to(saved / "tokenizer")
    (tmp_path / "model.json").write_text(json.dumps(json.loads((saved / "model.json").read_text()) | change))
    with pytest.raises(UserError, match=says):
        CheckpointFolder.open(tmp_path).tokenizer()


def test_the_template_is_the_one_it_was_fine_tuned_with(saved: Path, tmp_path: Path):
    tuned = CheckpointFolder.open(saved)
    assert tuned.template == template_to_use(tuned, None) == template_to_use(tuned, "zephyr") == TEMPLATES["zephyr"]
    with pytest.raises(
        UserError, match=r"^--template: expected the template that .* zephyr; found chatml\. Take zephyr"
    ):
        template_to_use(tuned, "chatml")
    with pytest.raises(UserError, match=r"one of alpaca, chatml.*found 'chat'"):
        template_to_use(tuned, "chat")
    base = CheckpointFolder.create(tmp_path / "base", MODEL, load_tokenizer(TOKENIZER), provenance={}, template=None)
    assert CheckpointFolder.open(tmp_path / "base").template is None
    assert template_to_use(base, None) == TEMPLATES["alpaca"]
    assert template_to_use(base, "llama3") == TEMPLATES["llama3"]


def test_a_checkpoint_from_before_there_were_several_templates_has_alpacas(saved: Path, tmp_path: Path):
    description = json.loads((saved / "model.json").read_text()) | {"template_sha256": TEMPLATES["alpaca"].sha256}
    del description["template"]
    (tmp_path / "model.json").write_text(json.dumps(description))
    assert CheckpointFolder.open(tmp_path).template == TEMPLATES["alpaca"]


@pytest.mark.parametrize("content", ["", "[]", "{", "{}"])
def test_a_description_that_is_none_is_refused(tmp_path: Path, content: str):
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(UserError):
        CheckpointFolder.open(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_step_is_refused(saved: Path, tmp_path: Path, damage: str):
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    if damage == "cut":
        largest = max((copy / "8" / "parameters").rglob("*"), key=lambda path: path.stat().st_size)
        os.truncate(largest, 1000)
    else:
        shutil.rmtree(copy / "8" / "parameters")
    definition, shardings = on_mesh(1, 8, 1)
    with (
        pytest.raises(UserError, match=r"copy/8: expected a whole checkpoint.*one before") as caught,
        Store(copy) as store,
    ):
        store.restore_parameters(abstract_parameters(definition.shapes, shardings, np.float32))
    assert "\n" not in str(caught.value)
    del caught
    gc.collect()  # what Orbax left unfinished ends now, and must not be heard of (a warning is an error here)


def test_folders_without_a_step_are_refused(saved: Path, tmp_path: Path):
    with pytest.raises(UserError, match="no such folder"):
        CheckpointFolder.open(tmp_path / "absent")
    with pytest.raises(UserError, match=r"no model\.json"):
        CheckpointFolder.open(tmp_path)
    definition, shardings = on_mesh(1, 8, 1)
    with pytest.raises(UserError, match="at least one saved step"), Store(tmp_path / "empty") as store:
        store.restore_parameters(abstract_parameters(definition.shapes, shardings, np.float32))
