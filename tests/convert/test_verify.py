"""`convert verify` tells the same model from another one, and says what it needs."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from diff_models import random_model, read_folder
from safetensors.numpy import save_file

from alpaca_jax.convert import verify as module
from alpaca_jax.convert.exporter import export_checkpoint
from alpaca_jax.convert.importer import import_checkpoint
from alpaca_jax.convert.verify import Agreement, verify
from alpaca_jax.support.errors import UserError
from tests.programs import run

Write = Callable[..., Path]
_SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "max_position_embeddings": 4096, "vocab_size": 270}


@pytest.fixture
def folders(write_folder: Write, tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint and the folder that it was imported from; positions to 4,095."""
    source = write_folder({n: 0.3 * t for n, t in random_model(np.float32, **_SIZES).items()}, **_SIZES)
    return import_checkpoint(source, tmp_path / "checkpoint").path, source


def test_the_truth_passes_and_a_changed_copy_does_not(folders: tuple[Path, Path]) -> None:
    checkpoint, source = folders
    flags = ["verify", f"--checkpoint={checkpoint}", "--json"]
    code, out, _ = run("convert.__main__", *flags, f"--reference={source}")
    result = json.loads(out)
    assert (code, result["passed"], result["top1_agreement"]) == (0, True, 1.0)
    assert result["max_abs_error"] < 1e-4
    assert 0 <= result["kl"] < 1e-6
    assert (result["positions"][0], result["positions"][-1]) == (0, 4095)
    assert len(result["positions"]) > 40
    assert result["largest_logit"] > 1, "the logits are too small for the error to mean anything"

    # One part in ten thousand, which shows at long positions alone.
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"rope_theta": 10_001.0}))
    code, out, words = run("convert.__main__", *flags, f"--reference={source}")
    assert (code, json.loads(out)["passed"]) == (1, False)
    assert "DIFFERENT" in words


def test_what_passes() -> None:
    figures = Agreement(1e-3, 1e-4, 1.0, [0], 10.0, 1e-4, "float32", 0)
    assert figures.passed
    assert not dataclasses.replace(figures, max_abs_error=2e-3).passed
    assert dataclasses.replace(figures, max_abs_error=2e-3, dtype="bfloat16").passed
    assert not dataclasses.replace(figures, kl=2e-4, dtype="bfloat16").passed


def test_certificates_are_checked_on_the_way(folders: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, source = folders
    out = export_checkpoint(checkpoint, tmp_path / "out")
    tensors = len(read_folder(source))
    result = verify(checkpoint, out, dtype="bfloat16")
    assert (result.passed, result.tensors_checked) == (True, 2 * tensors)
    content = bytearray((out / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (out / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"tensor \S+: expected the numbers that certificate\.json vouches for"):
        verify(checkpoint, out)


def test_what_cannot_be_compared_is_refused(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, source = folders
    flags = ["convert.__main__", "verify", f"--checkpoint={checkpoint}"]
    code, _, words = run(*flags, f"--reference={source.parent / 'absent'}")
    assert (code, "absent: expected a model that transformers loads" in words) == (2, True)
    other = source.parent / "other"
    shutil.copytree(source, other)
    tensors = read_folder(source)
    with pytest.raises(UserError, match="--dtype: expected float32 or bfloat16"):
        verify(checkpoint, source, dtype="float16")
    save_file(
        {name: tensor for name, tensor in tensors.items() if "layers.0.mlp.up" not in name}, other / "model.safetensors"
    )
    with pytest.raises(UserError, match=r"found no tensor model\.layers\.0\.mlp\.up_proj\.weight"):
        verify(checkpoint, other)
    config = json.loads((source / "config.json").read_text()) | {"vocab_size": 269}
    (other / "config.json").write_text(json.dumps(config))
    vocabulary = ("model.embed_tokens.weight", "lm_head.weight")
    save_file(
        {name: tensor[:269] if name in vocabulary else tensor for name, tensor in tensors.items()},
        other / "model.safetensors",
    )
    with pytest.raises(UserError, match=r"the checkpoint's vocabulary, 270; found 269"):
        verify(checkpoint, other)
    monkeypatch.setattr(module.os, "sysconf", lambda name: 1)
    with pytest.raises(UserError, match=r"memory for .* in float32; .*--dtype=bfloat16"):
        verify(checkpoint, source)


def test_without_the_extra_it_is_named(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, source = folders
    monkeypatch.setitem(sys.modules, "transformers", None)
    code, _, words = run("convert.__main__", "verify", f"--checkpoint={checkpoint}", f"--reference={source}")
    assert code == 2
    assert 'pip install "alpaca-jax[torch]"' in words.splitlines()[-1]


def test_the_checkpoint_is_looked_at_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        verify(tmp_path / "absent", tmp_path)
