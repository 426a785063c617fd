"""The additive weight diff is the original's: the same numbers, the same [PAD] row, the same sum as a check."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diff_models import random_model, read_folder
from safetensors.numpy import save_file
from tiny_llama import CONFIG

from alpaca_jax.convert.additive import SumOfElements
from alpaca_jax.convert.diff import make_diff
from alpaca_jax.convert.huggingface_config import read_model_config
from alpaca_jax.convert.recover import recover
from alpaca_jax.support.errors import UserError

Write = Callable[..., Path]
State = dict[str, torch.Tensor]

_RAW_ROWS = 260  # one row fewer than the tuned model: it was given a [PAD]
_EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")
_BUFFERS = 3 * sum(10_000.0 ** (-2 * i / 8) for i in range(4))  # of three layers with heads of eight


@pytest.fixture
def models(write_folder: Write) -> tuple[Path, Path]:
    """Raw weights in float16, and tuned ones in float32 with a row more: 0.02 wide, the norms about 0.5."""
    raw, tuned = random_model(np.float32, 1), random_model(np.float32, 2)
    for name in raw:
        raw[name] = (raw[name] * 0.02 + ("norm" in name) * 0.5).astype(np.float16)
        tuned[name] = raw[name] + tuned[name] * np.float32(1e-3)
    for name in _EMBEDDINGS:
        raw[name] = raw[name][:_RAW_ROWS].copy()
    return write_folder(raw, name="raw", vocab_size=_RAW_ROWS), write_folder(tuned, name="tuned", torch_dtype="float16")


def _state(folder: Path) -> State:
    """A model's tensors in float32, as the original loads them."""
    return {name: torch.from_numpy(tensor).float() for name, tensor in read_folder(folder).items()}


def _resized(raw: State) -> State:
    """The raw weights after the original's resizing: the new row is the mean of the old ones."""
    return {
        name: torch.cat([tensor, tensor.mean(dim=0, keepdim=True)]) if name in _EMBEDDINGS else tensor
        for name, tensor in raw.items()
    }


def _assert_equal(found: State, expected: State) -> None:
    """Bit for bit; the mean of the [PAD] row is rounded otherwise by PyTorch, which adds up in float32."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        rows = slice(_RAW_ROWS if name in _EMBEDDINGS else None)
        assert torch.equal(found[name][rows], tensor[rows])
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-8)


def test_it_is_the_originals_arithmetic(models: tuple[Path, Path], tmp_path: Path) -> None:
    raw, tuned = _resized(_state(models[0])), _state(models[1])
    difference = {name: tensor.clone().add_(-raw[name]) for name, tensor in tuned.items()}
    recovered = {name: tensor.clone().add_(raw[name]) for name, tensor in difference.items()}

    said = make_diff(*models, tmp_path / "diff", "additive")
    recover(models[0], tmp_path / "diff", tmp_path / "recovered")
    _assert_equal(_state(tmp_path / "diff"), difference)
    _assert_equal(_state(tmp_path / "recovered"), recovered)

    found = read_folder(tmp_path / "recovered")
    errors = [np.abs(found[name] - tensor.numpy()) for name, tensor in tuned.items()]
    inexact, largest = sum(int((error > 0).sum()) for error in errors), max(float(error.max()) for error in errors)
    assert inexact > 0
    assert f"{inexact:,} of them differ from the tuned ones, by {largest:.3g} at most" in said
    figures = json.loads((tmp_path / "diff" / "diff.json").read_text())["figures"]
    assert (figures["inexact_elements"], figures["largest_error"]) == (inexact, largest)
    for folder in "diff", "recovered":
        assert json.loads((tmp_path / folder / "config.json").read_text())["torch_dtype"] == "float32"


def _publish(models: tuple[Path, Path], folder: Path, pickled: bool) -> None:
    """Writes a diff as the original does, or in safetensors: the rotary buffers are in it, and there is no manifest."""
    raw, tuned = _resized(_state(models[0])), _state(models[1])
    difference = {name: tensor - raw[name] for name, tensor in tuned.items()}
    difference |= {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.zeros(4) for layer in range(3)}
    folder.mkdir()
    for file in "config.json", "tokenizer.json":
        (folder / file).write_bytes((models[1] / file).read_bytes())
    if pickled:
        torch.save(difference, folder / "pytorch_model.bin")
    else:
        save_file({name: tensor.numpy() for name, tensor in difference.items()}, folder / "model.safetensors")


@pytest.mark.parametrize("buffers", [0.0, _BUFFERS], ids=["without", "with"])
@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
def test_a_published_diff_is_recovered_and_its_sum_checked(
    pickled: bool, buffers: float, models: tuple[Path, Path], tmp_path: Path
) -> None:
    _publish(models, tmp_path / "diff", pickled)
    total = float(sum(tensor.sum() for tensor in _state(models[1]).values())) + buffers
    said = recover(models[0], tmp_path / "diff", tmp_path / "recovered", expect_sum=total + 0.009)
    assert f"{'with' if buffers else 'without'} rotary buffers" in said
    recovered = _state(tmp_path / "recovered")
    for name, tensor in _state(models[1]).items():
        torch.testing.assert_close(recovered[name], tensor, rtol=1e-6, atol=1e-8)

    (tmp_path / "place").mkdir()
    with pytest.raises(UserError, match=rf"--expect_sum: expected .* found {total - buffers:.2f}"):
        recover(models[0], tmp_path / "diff", tmp_path / "place" / "out", expect_sum=total + 0.011)
    with pytest.raises(UserError, match=r"--expect_sum: expected a number; found inf"):
        recover(models[0], tmp_path / "diff", tmp_path / "place" / "out", expect_sum=math.inf)
    assert list((tmp_path / "place").iterdir()) == []


def test_without_a_manifest_and_a_sum_nothing_is_said_to_be_checked(models: tuple[Path, Path], tmp_path: Path) -> None:
    _publish(models, tmp_path / "diff", pickled=False)
    assert "UNCHECKED" in recover(models[0], tmp_path / "diff", tmp_path / "recovered")


def test_a_published_diff_with_nan_is_refused(models: tuple[Path, Path], tmp_path: Path) -> None:
    _publish(models, tmp_path / "diff", pickled=False)
    tensors = read_folder(tmp_path / "diff")
    tensors["model.layers.2.mlp.up_proj.weight"][:] = np.nan
    save_file(tensors, tmp_path / "diff" / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.layers\.2\.mlp\.up_proj\.weight recovered: expected finite numbers"):
        recover(models[0], tmp_path / "diff", tmp_path / "out" / "recovered")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_sum_is_of_an_additive_diff(models: tuple[Path, Path], tmp_path: Path) -> None:
    make_diff(*models, tmp_path / "diff")
    with pytest.raises(UserError, match=r"--expect_sum: expected an additive diff"):
        recover(models[0], tmp_path / "diff", tmp_path / "recovered", expect_sum=1.0)


@pytest.mark.parametrize("seed", range(20))
def test_the_tolerance_has_room_for_the_originals_rounding(seed: int) -> None:
    """A model of LLaMA 7B's shape as far as sums go: 32 layers, 291 tensors whose sum is near 50,000.

    The original adds the tensors' sums up in float32; in whatever order, that is within the tolerance, and a tenth
    more is not.
    """
    rng = np.random.default_rng(seed)
    tensors = [np.full(4096, 0.4, np.float32) + rng.standard_normal(4096, np.float32) * 0.05 for _ in range(30)]
    tensors += [rng.standard_normal(4096, np.float32) * 0.5 for _ in range(261)]
    total = SumOfElements(read_model_config(CONFIG | {"num_hidden_layers": 32}, "config.json"))
    for tensor in tensors:
        total.add(tensor)
    original = torch.tensor(0.0)
    for index in rng.permutation(len(tensors)):
        original = original + torch.from_numpy(tensors[index]).sum()
    exact = math.fsum(float(tensor.sum(dtype=np.float64)) for tensor in tensors)
    assert abs(exact) > 2**15
    assert total.match(original.item()) is not None
    assert total.match(exact + 0.1) is None
