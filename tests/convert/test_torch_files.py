"""PyTorch's files: every bit arrives, whatever the layout. What is refused: see `test_bin_folder.py`."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca_jax.convert.torch_files import TorchFile
from alpaca_jax.support.errors import UserError

_DTYPES = {torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: ml_dtypes.bfloat16}
_VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "transposed": lambda tensor: tensor.movedim(0, -1),
    "second half": lambda tensor: tensor[tensor.shape[0] // 2 :],
    "every other": lambda tensor: tensor[..., ::2],
    "one": lambda tensor: tensor[-1:],
    "expanded": lambda tensor: tensor.unsqueeze(0).expand(3, *tensor.shape),
    "number": lambda tensor: tensor.reshape(-1)[0] if tensor.numel() else tensor,
    "nothing": lambda tensor: tensor[:0],
}


@settings(max_examples=150, deadline=None)
@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    dtype=st.sampled_from(list(_DTYPES)),
    views=st.lists(st.sampled_from(list(_VIEWS)), max_size=3),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_bit_of_every_view_comes_back(
    shape: list[int], dtype: torch.dtype, views: list[str], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Any bits: −0, subnormals, infinities and NaN with what they carry among them.
    numbers = np.random.default_rng(seed).integers(256, size=[*shape, dtype.itemsize], dtype=np.uint8)
    whole = torch.from_numpy(numbers).view(dtype).reshape(shape)
    part = whole
    for view in views:
        part = _VIEWS[view](part) if part.ndim else part
    path = tmp_path_factory.getbasetemp() / "views.bin"
    torch.save({"before": torch.ones(3), "part": part, "whole": whole}, path)
    file = TorchFile(path)
    for name, tensor in (("part", part), ("whole", whole)):
        read = file.read(name)
        assert (read.shape, read.dtype) == (tensor.shape, _DTYPES[dtype])
        assert read.shape == file.tensors[name].shape
        assert read.flags.c_contiguous
        dense = torch.empty(tensor.numel(), dtype=dtype).copy_(tensor.flatten())
        assert read.tobytes() == dense.view(torch.uint8).numpy().tobytes()


def test_equal_compares_bytes(tmp_path: Path) -> None:
    long = torch.zeros(3 * 2**18 + 5)
    other = long.clone()
    other[-1] = -0.0
    torch.save({"long": long, "twin": long.clone(), "other": other, "short": long[:-1]}, tmp_path / "a.bin")
    file = TorchFile(tmp_path / "a.bin")
    assert file.equal("long", "twin")
    assert not file.equal("long", "other")
    assert not file.equal("long", "short")


def test_reading_leaves_nothing_resident(tmp_path: Path) -> None:
    torch.save({str(number): torch.full((2**22,), float(number)) for number in range(12)}, tmp_path / "large.bin")
    program = """
import sys, torch
from pathlib import Path
from alpaca_jax.convert.torch_files import TorchFile
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
TorchFile(Path(sys.argv[1])).read("0")
before = peak()
file = TorchFile(Path(sys.argv[1]))
assert all(file.read(name)[-1] == float(name) for name in file.tensors)
print(peak() - before)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "large.bin")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 40, "MiB more than for one of twelve tensors of 16 MiB"


def test_without_torch_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "a.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"alpaca-jax\[torch\]"):
        TorchFile(tmp_path / "a.bin")
