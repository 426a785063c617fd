"""What must not be recovered: a wrong base, a truncated file, a flipped bit; the tensor is named, nothing is left."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from diff_models import flip_bit
from tiny_llama import random_tensors

from alpaca_jax.convert import recover as recover_module
from alpaca_jax.convert.diff import make_diff
from alpaca_jax.convert.recover import recover
from alpaca_jax.support.errors import UserError

Write = Callable[..., Path]

# In the last file of each folder, and among the last tensors.
_TENSOR = "model.layers.2.self_attn.v_proj.weight"


@pytest.fixture(params=["xor", "additive"])
def diff(request: pytest.FixtureRequest, write_folder: Write, tmp_path: Path) -> Path:
    """A diff of the folder `base`, which is in two files beside it."""
    tuned = {name: tensor[::-1].copy() for name, tensor in random_tensors(ml_dtypes.bfloat16).items()}
    base = write_folder(random_tensors(np.float16), shards=2, name="base")
    make_diff(base, write_folder(tuned, name="tuned"), tmp_path / "diff", request.param)
    return tmp_path / "diff"


def _refused(diff: Path, base: str = "base") -> str:
    """The line with which a recovery ends, after a look that nothing is left of it."""
    place = diff.parent / "place"
    place.mkdir()
    with pytest.raises(UserError) as refused:
        recover(diff.parent / base, diff, place / "out")
    assert list(place.iterdir()) == []
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture
def nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is refused is so before the first output."""

    def fail(*unused: Any) -> None:
        raise AssertionError("an output was begun")

    monkeypatch.setattr(recover_module, "new_folder", fail)


@pytest.mark.usefixtures("nothing_is_written")
def test_a_flipped_bit_in_the_base(diff: Path) -> None:
    flip_bit(diff.parent / "base", _TENSOR)
    assert f"base, tensor {_TENSOR}: expected SHA-256" in _refused(diff)


@pytest.mark.usefixtures("nothing_is_written")
def test_another_base(diff: Path, write_folder: Write) -> None:
    """Tensors of the right sizes and type, with other numbers."""
    tensors = random_tensors(np.float16)
    tensors[_TENSOR] = -tensors[_TENSOR]
    write_folder(tensors, name="other")
    assert f"other, tensor {_TENSOR}: expected SHA-256" in _refused(diff, "other")


@pytest.mark.usefixtures("nothing_is_written")
def test_a_base_of_another_type(diff: Path, write_folder: Write) -> None:
    write_folder(random_tensors(np.float32), name="other")
    line = _refused(diff, "other")
    assert "expected float16" in line
    assert "found float32" in line


@pytest.mark.usefixtures("nothing_is_written")
@pytest.mark.parametrize("whose", ["base", "diff"])
def test_a_truncated_file(whose: str, diff: Path) -> None:
    """The last tensor of a file lies at its end, so it is the one that is cut."""
    file = sorted((diff.parent / whose).glob("*.safetensors"))[-1]
    content = file.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    header.pop("__metadata__", None)
    last = max(header, key=lambda name: header[name]["data_offsets"][1])
    file.write_bytes(content[:-20])
    line = _refused(diff)
    assert file.name in line
    assert f"inside tensor {last}" in line


def test_a_flipped_bit_in_the_diff(diff: Path) -> None:
    flip_bit(diff, _TENSOR)
    assert f"diff, tensor {_TENSOR}: expected SHA-256" in _refused(diff)


@pytest.mark.parametrize("whose", ["base", "diff", "result"])
def test_a_flipped_bit_in_a_sum_of_the_manifest(whose: str, diff: Path) -> None:
    def flip(manifest: dict[str, Any]) -> None:
        sha256 = manifest["tensors"][_TENSOR][whose]
        manifest["tensors"][_TENSOR][whose] = f"{int(sha256[0], 16) ^ 1:x}{sha256[1:]}"

    _edit(diff, flip)
    assert _TENSOR in _refused(diff)


_EDITS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a letter in a sum": (lambda manifest: manifest["tensors"][_TENSOR].update(base="g" * 64), _TENSOR),
    "no sum": (lambda manifest: manifest["tensors"][_TENSOR].pop("result"), _TENSOR),
    "another shape": (lambda manifest: manifest["tensors"][_TENSOR].update(shape=[16, 41]), _TENSOR),
    "a negative size": (lambda manifest: manifest["tensors"][_TENSOR].update(shape=[-16, 40]), _TENSOR),
    "another shape of the base": (lambda manifest: manifest["tensors"][_TENSOR].update(base_shape=[1, 40]), _TENSOR),
    "another type of the base": (lambda manifest: manifest["tensors"][_TENSOR].update(base_dtype="float32"), _TENSOR),
    "an unknown type": (lambda manifest: manifest["tensors"][_TENSOR].update(dtype="object"), _TENSOR),
    "no record": (lambda manifest: manifest["tensors"].update({_TENSOR: None}), _TENSOR),
    "a tensor left out": (lambda manifest: manifest["tensors"].pop(_TENSOR), _TENSOR),
    "a tensor too many": (lambda manifest: manifest["tensors"].update(x=manifest["tensors"][_TENSOR]), "tensor x"),
    "no tensors": (lambda manifest: manifest.update(tensors={}), "tensors"),
    "another mode": (lambda manifest: manifest.update(mode="subtract"), "mode"),
    "another format": (lambda manifest: manifest.update(format=2), "format 1"),
    "no files": (lambda manifest: manifest.update(files=[]), "files"),
    "a file left out": (lambda manifest: manifest["files"].pop("tokenizer.json"), "tokenizer.json"),
    "a file too many": (lambda manifest: manifest["files"].update({"../x": "0" * 64}), "../x"),
}


@pytest.mark.usefixtures("nothing_is_written")
@pytest.mark.parametrize(("edit", "named"), _EDITS.values(), ids=_EDITS.keys())
def test_a_manifest_that_is_wrong(edit: Callable[[dict[str, Any]], Any], named: str, diff: Path) -> None:
    _edit(diff, edit)
    line = _refused(diff)
    assert named in line
    assert str(diff) in line or "base" in line


@pytest.mark.usefixtures("nothing_is_written")
@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_a_file_beside_the_weights_that_was_changed(file: str, diff: Path) -> None:
    (diff / file).write_text((diff / file).read_text() + " ")
    assert f"{file}: expected SHA-256" in _refused(diff)


@pytest.mark.usefixtures("nothing_is_written")
def test_a_manifest_that_is_cut(diff: Path) -> None:
    (diff / "diff.json").write_bytes((diff / "diff.json").read_bytes()[:-100])
    assert "diff.json: expected a JSON file" in _refused(diff)


@pytest.mark.usefixtures("nothing_is_written")
def test_a_folder_that_is_no_diff(diff: Path) -> None:
    for file in diff.iterdir():
        file.unlink()
    assert "the folder of a weight diff; found no config.json" in _refused(diff)


def _edit(diff: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    path = diff / "diff.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))
