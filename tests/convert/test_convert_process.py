"""Import and export as processes of their own: their memory, and what is left when they are interrupted."""

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from diff_models import read_folder

from alpaca_jax.checkpoint.folder import CheckpointFolder
from alpaca_jax.convert.exporter import export_checkpoint
from alpaca_jax.convert.formats import open_source
from alpaca_jax.convert.importer import import_checkpoint
from alpaca_jax.data.embedded import TOKENIZER
from alpaca_jax.model.config import ModelConfig
from alpaca_jax.support.errors import UserError

_TOOL = Path(__file__).parents[2] / "tools" / "make_random_llama.py"

# In bfloat16: 25 MB a layer, 600 MB in all, and no tensor larger than 6 MB.
_LARGE = ModelConfig(2049, 1024, 2816, 24, 16, 16, 64, 2048)
_SMALL = ModelConfig(2049, 64, 96, 4, 4, 2, 16, 128)
_LIMIT_MIB = 250


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_random_llama", _TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def small(tool: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "source"
    tool.make_folder(_SMALL, str(TOKENIZER), folder)
    return folder


# A small model first, so that what the libraries take for themselves is not counted.
_MEASURED = """
import sys
from alpaca_jax.convert.exporter import export_checkpoint
from alpaca_jax.convert.importer import import_checkpoint

def peak_mib():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

small, large, place = sys.argv[1:]
export_checkpoint(import_checkpoint(small, f"{place}/small").path, f"{place}/small_out")
before = peak_mib()
import_checkpoint(large, f"{place}/ours")
between = peak_mib()
export_checkpoint(f"{place}/ours", f"{place}/out")
print(between - before, peak_mib() - before)
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder that pytest does not keep: what is put there is large."""
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        yield Path(folder)


def test_memory_is_bounded_and_every_bit_survives(tool: ModuleType, small: Path, place: Path) -> None:
    tool.make_folder(_LARGE, str(TOKENIZER), place / "large")
    command = [sys.executable, "-c", _MEASURED, str(small), str(place / "large"), str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(float(mib) < _LIMIT_MIB for mib in done.stdout.split()), done.stdout
    wanted, found = read_folder(place / "large"), read_folder(place / "out")
    assert all(found.pop(name).tobytes() == tensor.tobytes() for name, tensor in wanted.items())
    assert not found


# Does half of the work, says so, and waits to be interrupted.
_HALTED = """
import sys, time
from alpaca_jax.checkpoint import streaming
from alpaca_jax.convert import exporter, importer
from alpaca_jax.support.program import run_program

def ahead_and_wait(items):
    for number, item in enumerate(items):
        if number == 20:
            print("halfway", flush=True)
            time.sleep(60)
        yield item

exporter.ahead = importer.ahead = ahead_and_wait
function, *arguments = sys.argv[1:]
run_program(lambda: {"import": importer.import_checkpoint, "export": exporter.export_checkpoint}[function](*arguments))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
@pytest.mark.parametrize("function", ["import", "export"])
def test_interrupted_it_leaves_nothing_that_opens(
    function: str, how: signal.Signals, small: Path, tmp_path: Path
) -> None:
    source, place = small, tmp_path / "place"
    if function == "export":
        source = import_checkpoint(small, tmp_path / "imported").path
    command = [sys.executable, "-c", _HALTED, function, str(source), str(place / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "halfway\n"
        os.kill(child.pid, how)
        _, words = child.communicate(timeout=60)
    left = list(place.iterdir())
    if how == signal.SIGINT:
        assert (child.returncode, "Traceback" in words) == (130, False), words
        assert left == []
        return
    assert child.returncode == -signal.SIGKILL
    (partial,) = left
    assert partial.name.startswith(".out.")
    with pytest.raises(UserError):
        CheckpointFolder.open(partial)
    with pytest.raises(UserError):
        open_source(partial)
    # The next attempt is not hindered.
    {"import": import_checkpoint, "export": export_checkpoint}[function](source, place / "out")
