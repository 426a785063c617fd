"""Making a diff and recovering as processes of their own: their memory, and what is left when they are interrupted."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from diff_models import read_folder
from tiny_llama import random_tensors

from alpaca_jax.convert.diff import make_diff
from alpaca_jax.convert.huggingface_config import read_model_config
from alpaca_jax.convert.huggingface_writer import FolderWriter
from alpaca_jax.convert.names import tensors_in_order
from alpaca_jax.convert.source import TensorInfo
from alpaca_jax.support.files import write_json_atomic

Write = Callable[..., Path]

# In bfloat16: 25 MB a layer, and two embeddings of 20 MB, the largest tensors.
_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 10_000,
    "hidden_size": 1024,
    "intermediate_size": 2752,
    "num_attention_heads": 16,
    "max_position_embeddings": 2048,
}

_MEASURED = """
import sys
from alpaca_jax.convert.diff import make_diff
from alpaca_jax.convert.recover import recover

def peak_mib():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

base, tuned, diff, recovered, mode = sys.argv[1:]
before = peak_mib()
make_diff(base, tuned, diff, mode)
between = peak_mib()
recover(base, diff, recovered)
print(between - before, peak_mib() - before)
"""


def _write_large(folder: Path, layers: int, seed: int) -> Path:
    """Random finite bits, the same ones in every tensor but for where they begin."""
    folder.mkdir()
    config = _CONFIG | {"num_hidden_layers": layers}
    write_json_atomic(folder / "config.json", config)
    model = read_model_config(config, "config.json")
    infos = {
        name: TensorInfo(row.their_shape(model), np.dtype(ml_dtypes.bfloat16))
        for row, _, name in tensors_in_order(model)
    }
    bits = np.random.default_rng(seed).integers(0, 2**16, 2**24, np.uint16) & np.uint16(0xBFFF)
    writer = FolderWriter(folder, infos, max_shard_bytes=2**27)
    for start, (name, info) in enumerate(infos.items()):
        writer.write(name, bits[start:][: np.prod(info.shape)].view(info.dtype).reshape(info.shape))
    writer.close()
    return folder


@pytest.mark.parametrize(("mode", "layers", "limit_mib"), [("xor", 19, 200), ("additive", 6, 300)])
def test_memory_is_bounded(mode: str, layers: int, limit_mib: float, tmp_path: Path) -> None:
    """A few tensors are in memory at one time, whatever the model's size: 520 MB, and 190 MB that become float32."""
    base, tuned = (_write_large(tmp_path / name, layers, seed) for seed, name in enumerate(("base", "tuned")))
    folders = base, tuned, tmp_path / "diff", tmp_path / "recovered"
    command = [sys.executable, "-c", _MEASURED, *map(str, folders), mode]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [float(mib) < limit_mib for mib in done.stdout.split()] == [True, True], done.stdout
    if mode == "xor":
        wanted, found = read_folder(tuned), read_folder(tmp_path / "recovered")
        assert all(found.pop(name).tobytes() == tensor.tobytes() for name, tensor in wanted.items())
        assert not found


# Writes twenty tensors of thirty, says so, and waits to be interrupted.
_HALTED = """
import sys, time
from alpaca_jax.convert import diff, recover
from alpaca_jax.convert.huggingface_writer import FolderWriter
from alpaca_jax.support.program import run_program

write, written = FolderWriter.write, []

def write_and_wait(self, name, array):
    written.append(write(self, name, array))
    if len(written) == 20:
        print("halfway", flush=True)
        time.sleep(60)
    return written[-1]

FolderWriter.write = write_and_wait
function, *arguments = sys.argv[1:]
run_program(lambda: {"diff": diff.make_diff, "recover": recover.recover}[function](*arguments) and None)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("function", ["diff", "recover"])
def test_interrupted_it_leaves_nothing_that_looks_complete(
    function: str, how: signal.Signals, write_folder: Write, tmp_path: Path
) -> None:
    base = write_folder(random_tensors(np.float16), name="base")
    other = write_folder(random_tensors(np.float32), name="tuned")
    if function == "recover":
        make_diff(base, other, tmp_path / "diff")
        other = tmp_path / "diff"
    place = tmp_path / "place"
    command = [sys.executable, "-c", _HALTED, function, str(base), str(other), str(place / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "halfway\n"
        os.kill(child.pid, how)
        _, words = child.communicate(timeout=30)
    left = [path.relative_to(place) for path in place.rglob("*")]
    if how == signal.SIGINT:
        assert child.returncode == 130
        assert "Traceback" not in words
        assert left == []
    else:
        assert child.returncode == -signal.SIGKILL
        assert not (place / "out").exists()
        # A hidden folder, and in it no description, without which nothing takes it for a model or a diff.
        assert all(path.parts[0].startswith(".out.") for path in left)
        assert {path.suffix for path in left} == {".partial", ".safetensors"}
