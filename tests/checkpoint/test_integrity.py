"""Checksums: any bit that changes in a saved step is noticed, and the newest whole step is used."""

import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax.checkpoint.integrity import CHECKSUMS, discard_damaged, fault_of
from alpaca_jax.checkpoint.store import Store
from alpaca_jax.support.errors import UserError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "steps"
    with Store(folder) as store:
        for step in (2, 4, 6):
            weights = {"a": jnp.arange(1000.0) * step}
            store.save(step, weights, {"moment": jnp.ones(1000)}, {"step": step}, eval_loss=1 / step)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "steps"))


def files(step: Path) -> list[Path]:
    """All that belong to a step, but for the marks that Orbax makes when it commits it."""
    marks = ("_CHECKPOINT_METADATA", "commit_success.txt")
    return sorted(path for path in step.rglob("*") if path.is_file() and path.name not in marks)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_a_flipped_bit_in_any_file_is_noticed(copy: Path):
    assert len(files(copy / "6")) > 10
    for path in files(copy / "6"):
        whole = path.read_bytes()
        assert fault_of(copy / "6") is None
        flip_a_bit(path)
        assert fault_of(copy / "6"), path
        path.write_bytes(whole)


@pytest.mark.parametrize("damage", [flip_a_bit, Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_the_one_before_is_used_and_it_is_said(copy: Path, damage, capsys: pytest.CaptureFixture):
    damage(max(files(copy / "6"), key=lambda path: path.stat().st_size))
    damage(copy / "4" / "progress" / "metadata")
    discard_damaged(copy)
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == [
        "The save of update 6 is damaged",
        "The save of update 4 is damaged",
        "The one before is used",
    ]
    assert "progress/metadata" in said[1]
    with Store(copy) as store:
        assert store.latest_step() == 2
        store.save(4, {"a": jnp.ones(3)})
    assert fault_of(copy / "4") is None


def test_none_that_is_whole_is_one_line_and_nothing_is_removed(copy: Path):
    for step in (2, 4, 6):
        (copy / str(step) / CHECKSUMS).write_text("[1]")
    with pytest.raises(UserError, match=r"a save that is whole; found 3 damaged \(update 6: checksums.json holds no"):
        discard_damaged(copy)
    assert len([step for step in copy.iterdir() if step.name.isdecimal()]) == 3


def test_parameters_are_checked_before_they_are_used(copy: Path):
    flip_a_bit(copy / "6" / "optimiser" / "_METADATA")
    with Store(copy) as store:
        weights = store.restore_parameters({"a": jnp.zeros(1000)})
        np.testing.assert_array_equal(weights["a"], np.arange(1000.0) * 6)
        flip_a_bit(copy / "6" / "parameters" / "_METADATA")
        with pytest.raises(UserError, match=r"/6: expected a whole checkpoint; found parameters/_METADATA has other"):
            store.restore_parameters({"a": jnp.zeros(1000)})
