"""A Hugging Face folder of `.bin` files arrives whole; a damaged one, or one that would run code, is refused."""

import json
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tiny_llama import random_tensors

from alpaca_jax.convert.formats import open_source
from alpaca_jax.convert.torch_files import TorchFile

Write = Callable[..., Path]
Refusal = Callable[[Path], str]

_DTYPES = {torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: ml_dtypes.bfloat16}


@pytest.fixture
def write_bin(write_folder: Write) -> Callable[..., Path]:
    """Writes a Hugging Face folder whose weights are PyTorch's, in one file or in two with an index."""

    def write(tensors: dict[str, Any], shards: int = 1) -> Path:
        folder = write_folder({})
        (folder / "model.safetensors").unlink()
        if shards == 1:
            torch.save(tensors, folder / "pytorch_model.bin")
            return folder
        files = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(tensors)}
        for file in set(files.values()):
            torch.save({name: tensors[name] for name in tensors if files[name] == file}, folder / file)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
        return folder

    return write


def _torch_tensors() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(tensor) for name, tensor in random_tensors(np.float32).items()}


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("dtype", _DTYPES)
def test_a_folder_of_bin_files(dtype: torch.dtype, shards: int, write_bin: Callable[..., Path]) -> None:
    expected = random_tensors(_DTYPES[dtype])
    tensors = {name: torch.from_numpy(tensor.view(np.uint8)).view(dtype) for name, tensor in expected.items()}
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    source = open_source(write_bin(tensors, shards))
    assert source.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert source.tensors[name].dtype == tensor.dtype
        assert source.read(name).tobytes() == tensor.tobytes(), name
    assert [file.name for file in source.files][1:] == (
        ["pytorch_model.bin"]
        if shards == 1
        else ["pytorch_model.bin.index.json", *(f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2))]
    )


def test_safetensors_are_preferred(write_folder: Write) -> None:
    folder = write_folder(random_tensors(np.float32))
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    expected = load_file(folder / "model.safetensors")
    source = open_source(folder)
    assert all(np.array_equal(source.read(name), tensor) for name, tensor in expected.items())
    assert "pytorch_model.bin" not in [file.name for file in source.files]


def test_files_of_older_versions(tmp_path: Path) -> None:
    tensors = _torch_tensors()
    torch.save(tensors, tmp_path / "old.bin")
    _rewrite(tmp_path / "old.bin")
    file = TorchFile(tmp_path / "old.bin")
    for name, tensor in tensors.items():
        assert np.array_equal(file.read(name), tensor.numpy())


class _Trap:
    """What a malicious pickle holds: reading it the usual way would make a file."""

    def __init__(self, path: Path):
        self._path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._path),)


class _Block:
    """A tensor that claims another part of four numbers than there is."""

    def __init__(self, *claim: Any):
        self._claim = claim

    def __reduce__(self) -> Any:
        block = torch.ones(4).untyped_storage()
        typed = torch.storage.TypedStorage(wrap_storage=block, dtype=torch.float32, _internal=True)
        return torch._utils._rebuild_tensor_v2, (typed, *self._claim, False, {})


def _trap(file: Path) -> None:
    torch.save({"model.norm.weight": _Trap(file.parent / "trapped")}, file)


def _trap_of_the_old_form(file: Path) -> None:
    torch.save({"model.norm.weight": _Trap(file.parent / "trapped")}, file, _use_new_zipfile_serialization=False)


def _module(file: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), file)


def _script(file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)


def _old_form(file: Path) -> None:
    torch.save({"model.norm.weight": torch.ones(40)}, file, _use_new_zipfile_serialization=False)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _cut_in_the_middle(file: Path) -> None:
    """The archive's own list stands at its end, here of a part of its content: what torch.save was killed in."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] + content[-2000:])


def _scramble_the_pickle(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:100] + b"\xff" * 60 + content[160:])


def _rewrite(file: Path, compression: int = zipfile.ZIP_STORED, **changes: bytes) -> None:
    """Writes the archive again, with entries of other contents, as PyTorch 1.6 did: not aligned, without a version."""
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries.items():
            if not name.endswith((".format_version", ".storage_alignment")):
                archive.writestr(name, changes.get(name.split("/", 1)[1], content))


def _compress(file: Path) -> None:
    _rewrite(file, zipfile.ZIP_DEFLATED)


def _shorten_an_entry(file: Path) -> None:
    _rewrite(file, **{"data/3": b"short"})


def _swell_the_pickle(file: Path) -> None:
    _rewrite(file, **{"data.pkl": bytes(2**26 + 1)})


def _turn_byte_order(file: Path) -> None:
    _rewrite(file, byteorder=b"big")


def _save(value: Any) -> Callable[[Path], None]:
    return lambda file: torch.save(value, file)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_trap, "mkdir', which could run code"),
        (_trap_of_the_old_form, "bare pickle"),
        (_module, "torch.nn.modules.linear.Linear"),
        (_script, "which torch.save never writes"),
        (_old_form, "bare pickle"),
        (_cut, "cut off"),
        (_cut_in_the_middle, "pytorch_model.bin"),
        (_scramble_the_pickle, "pytorch_model.bin"),
        (_compress, "a compressed archive"),
        (_shorten_an_entry, "is not within one entry"),
        (_save({"model.norm.weight": _Block(0, (99,), (1,))}), "tensor model.norm.weight is not within one entry"),
        (_save({"model.norm.weight": _Block(3, (2,), (1,))}), "tensor model.norm.weight is not within one entry"),
        (_save({"model.norm.weight": _Block(0, (2, 2), (1, 3))}), "tensor model.norm.weight is not within one entry"),
        (_swell_the_pickle, "a pickle of 64 MiB"),
        (_turn_byte_order, "byte order"),
        (lambda file: file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "it begins with b'version"),
        (lambda file: file.write_bytes(b""), "cut off"),
        (lambda file: file.unlink(), "none of them"),
        (_save([torch.ones(2)]), "a list in place of"),
        (_save({"model": {"norm": torch.ones(2)}}), "under 'model'"),
        (_save({3: torch.ones(2)}), "under 3"),
        # Which words refuse it depends on torch's version.
        (_save({"sparse": torch.ones(2).to_sparse()}), "pytorch_model.bin: expected"),
        (_save({"negated": torch.ones(2, dtype=torch.complex64).conj().imag}), "under 'negated'"),
        (_save({"model.norm.weight": torch.ones(40, dtype=torch.int64)}), "found torch.int64"),
        (_save({"model.norm.weight": torch.ones(40, dtype=torch.float8_e4m3fn)}), "found torch.float8_e4m3fn"),
    ],
)
def test_what_is_refused(
    damage: Callable[[Path], None], named: str, write_bin: Callable[..., Path], refusal: Refusal, tmp_path: Path
) -> None:
    folder = write_bin(_torch_tensors())
    damage(folder / "pytorch_model.bin")
    assert named in refusal(folder)
    assert not (folder / "trapped").exists()


def test_the_trap_works(tmp_path: Path) -> None:
    _trap(tmp_path / "a.bin")
    torch.load(tmp_path / "a.bin", weights_only=False)
    assert (tmp_path / "trapped").is_dir()


def test_not_finite_is_named(write_bin: Callable[..., Path], refusal: Refusal) -> None:
    tensors = _torch_tensors()
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = torch.nan
    assert "model.layers.1.mlp.up_proj.weight" in refusal(write_bin(tensors))


@pytest.mark.parametrize(
    ("name", "file", "named"),
    [
        ("model.norm.weight", "../secret.bin", "found '../secret.bin'"),
        ("model.norm.weight", "pytorch_model-00003-of-00002.bin", "pytorch_model-00003-of-00002.bin"),
        ("model.norm.bias", "pytorch_model-00001-of-00002.bin", "no tensor model.norm.bias"),
    ],
)
def test_an_index_that_lies(
    name: str, file: str, named: str, write_bin: Callable[..., Path], refusal: Refusal, tmp_path: Path
) -> None:
    tensors = _torch_tensors()
    folder = write_bin(tensors, shards=2)
    torch.save({"model.norm.weight": torch.ones(40)}, tmp_path / "secret.bin")
    index = json.loads((folder / "pytorch_model.bin.index.json").read_text())
    index["weight_map"][name] = file
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert named in refusal(folder)


def test_a_tensor_in_two_files(write_bin: Callable[..., Path], refusal: Refusal) -> None:
    tensors = _torch_tensors()
    folder = write_bin(tensors, shards=2)
    for file in folder.glob("*.bin"):
        torch.save(torch.load(file) | {"model.norm.weight": torch.ones(40)}, file)
    assert "model.norm.weight is in another file too" in refusal(folder)
