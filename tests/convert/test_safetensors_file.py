"""A safetensors header that lies is refused in a line, and reading leaves nothing of the file in memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from alpaca_jax.convert.safetensors_file import SafetensorsFile
from alpaca_jax.support.errors import UserError


def _tensor(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes


def _content(header: bytes | dict[str, Any], data_bytes: int, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(data_bytes)


_A = json.dumps(_tensor()).encode()

LIES = {
    "more numbers than bytes": _content({"a": _tensor(shape=[3])}, 8),
    "fewer numbers than bytes": _content({"a": _tensor(shape=[1])}, 8),
    "another type than bytes": _content({"a": _tensor(dtype="BF16")}, 8),
    "beyond the file": _content({"a": _tensor(shape=[4], data_offsets=[0, 16])}, 8),
    "more file than tensors": _content({"a": _tensor()}, 80),
    "overlapping": _content({"a": _tensor(), "b": _tensor(data_offsets=[4, 12])}, 12),
    "one place for two": _content({"a": _tensor(), "b": _tensor()}, 8),
    "a gap": _content({"a": _tensor(data_offsets=[4, 12])}, 12),
    "negative offset": _content({"a": _tensor(data_offsets=[-8, 0])}, 8),
    "negative size": _content({"a": _tensor(shape=[-2])}, 8),
    "end before beginning": _content({"a": _tensor(data_offsets=[8, 0])}, 8),
    "sizes that overflow": _content({"a": _tensor(shape=[2**62, 2**62])}, 8),
    "sizes that overflow, and none": _content({"a": _tensor(shape=[2**62, 2**62, 0], data_offsets=[0, 0])}, 0),
    "a huge header": _content({"a": _tensor()}, 8, length=2**63),
    "a header longer than the file": _content({"a": _tensor()}, 8, length=90_000_000),
    "a header that is cut": _content({"a": _tensor()}, 8, length=9),
    "the same name twice": _content(b'{"a":' + _A + b',"a":' + _A + b"}", 8),
    "one name, two types": _content(
        b'{"a":' + _A + b',"a":' + _A.replace(b"F32", b"F16").replace(b"[2]", b"[4]") + b"}", 8
    ),
    "one name, two places": _content(b'{"a":' + _A + b',"a":' + _A.replace(b"[0, 8]", b"[8, 16]") + b"}", 16),
    "no JSON": _content(b"{a", 0),
    "no object": _content(b"[]", 0),
    "no UTF-8": _content(b'{"\xff":{}}', 0),
    "too deep": _content(b'{"a":' + b"[" * 100_000, 0),
    "an unknown type": _content({"a": _tensor(dtype="Q4")}, 8),
    "a type of no model": _content({"a": _tensor(dtype="I32")}, 8),
    "eight bytes and no more": _content(b"", 0),
    "hardly begun": b"\1\0",
    "empty": b"",
}


@pytest.mark.parametrize("content", LIES.values(), ids=LIES.keys())
def test_a_header_that_lies_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        SafetensorsFile(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_truth_is_read(tmp_path: Path) -> None:
    """The lies above are lies: the same file, told truly, is read."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(_content({"a": _tensor()}, 8))
    assert SafetensorsFile(path).read("a").tolist() == [0, 0]


def test_a_truncated_file_names_its_tensor(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({name: np.zeros(1000, np.float32) for name in ("first", "second", "third")}, path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UserError, match="an end inside tensor second"):
        SafetensorsFile(path)


def test_a_file_that_shrinks_while_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": np.zeros(1000, np.float32)}, path)
    file = SafetensorsFile(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="tensor a"):
        file.read("a")


_READ = """
import sys
from pathlib import Path
from alpaca_jax.convert.safetensors_file import SafetensorsFile

def peak_kib():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

file = SafetensorsFile(Path(sys.argv[1]))
before = peak_kib()
for name in file.tensors:
    file.read(name)
print((peak_kib() - before) / 1024)
"""


def test_reading_leaves_nothing_behind(tmp_path: Path) -> None:
    """128 MiB in tensors of 8; a file that is mapped would stay resident as it is read."""
    path = tmp_path / "model.safetensors"
    save_file({f"tensor {i}": np.full(2**21, i, np.float32) for i in range(16)}, path)
    done = subprocess.run([sys.executable, "-c", _READ, str(path)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 40
