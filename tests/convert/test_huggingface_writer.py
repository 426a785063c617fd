"""What the writer writes, tensor by tensor, the safetensors library reads, bit for bit."""

import json
import shutil
import tempfile
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from alpaca_jax.convert.bits import sha256_tensor
from alpaca_jax.convert.huggingface_writer import FolderWriter
from alpaca_jax.convert.source import TensorInfo
from alpaca_jax.support.errors import UserError

_DTYPES = [np.dtype(dtype) for dtype in (np.float32, np.float16, ml_dtypes.bfloat16, np.uint16, np.uint32)]
_infos = st.builds(TensorInfo, st.lists(st.integers(0, 5), max_size=3).map(tuple), st.sampled_from(_DTYPES))


@hypothesis.given(
    infos=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), _infos, min_size=1),
    max_shard_bytes=st.integers(1, 300),
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_what_is_written_is_read(infos: dict[str, TensorInfo], max_shard_bytes: int) -> None:
    hypothesis.assume("__metadata__" not in infos)
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.integers(0, 256, (*info.shape, info.dtype.itemsize), np.uint8).view(info.dtype)[..., 0]
        for name, info in infos.items()
    }
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        writer = FolderWriter(folder, infos, max_shard_bytes)
        sums = {name: writer.write(name, tensor) for name, tensor in tensors.items()}
        records = writer.close()
        files = sorted(folder.glob("*.safetensors"))
        found = {file.name: _read(file) for file in files}
        index = folder / "model.safetensors.index.json"
        weight_map = json.loads(index.read_text())["weight_map"] if index.exists() else None
    assert {name for held in found.values() for name in held} == tensors.keys()
    for file, held in found.items():
        assert len(held) == 1 or sum(tensor.nbytes for tensor in held.values()) <= max_shard_bytes
        for name, tensor in held.items():
            assert (tensor.shape, tensor.dtype) == (infos[name].shape, infos[name].dtype)
            assert tensor.tobytes() == tensors[name].tobytes()
            assert weight_map is None or weight_map[name] == file
    expected = {
        name: {"dtype": str(info.dtype), "shape": list(info.shape), "sha256": sha256_tensor(tensors[name])}
        for name, info in infos.items()
    }
    assert records == expected
    assert sums == {name: record["sha256"] for name, record in expected.items()}
    if weight_map is None:
        assert list(found) == ["model.safetensors"]
    else:
        assert list(found) == [f"model-{1 + i:05}-of-{len(found):05}.safetensors" for i in range(len(found))]


def test_every_tensor_lies_at_a_multiple_of_its_types_size(tmp_path: Path) -> None:
    """Though a narrower and odd one is written before it; and the file says what transformers asks for."""
    tensors = {"narrow": np.arange(3, dtype=np.float16), "wide": np.arange(5, dtype=np.float32)}
    writer = FolderWriter(tmp_path, {name: TensorInfo(each.shape, each.dtype) for name, each in tensors.items()})
    for name, tensor in tensors.items():
        writer.write(name, tensor)
    writer.close()
    content = (tmp_path / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    assert header.pop("__metadata__") == {"format": "pt"}
    assert {name: (start + entry["data_offsets"][0]) % tensors[name].itemsize for name, entry in header.items()} == {
        "narrow": 0,
        "wide": 0,
    }


def test_nothing_is_closed_before_all_is_written(tmp_path: Path) -> None:
    info = TensorInfo((2,), np.dtype(np.float32))
    writer = FolderWriter(tmp_path, {"a": info, "b": info})
    writer.write("a", np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="b"):
        writer.close()
    for wrong in np.zeros(3, np.float32), np.zeros(2, np.float16):
        with pytest.raises(ValueError, match="b"):
            writer.write("b", wrong)


def test_a_full_disk_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12, 7))
    with pytest.raises(UserError, match="room"):
        FolderWriter(tmp_path, {"a": TensorInfo((2,), np.dtype(np.float32))})
    assert list(tmp_path.iterdir()) == []


def _read(file: Path) -> dict[str, np.ndarray]:
    with safe_open(file, framework="numpy") as handle:
        return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
