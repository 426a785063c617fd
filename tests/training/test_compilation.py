"""Compiled programs are kept for the next start, but not for a CPU as several devices."""

import subprocess
import sys
from pathlib import Path

import pytest

# A process of its own: where JAX keeps its programs is decided once a process, and must not be for the other tests.
PROGRAM = """
import sys
from pathlib import Path
import jax
from alpaca_jax.parallel.mesh import make_mesh, use_cpu_devices
from alpaca_jax.training.compilation import keep_compiled

use_cpu_devices(int(sys.argv[1]))
keep_compiled(Path(sys.argv[2]), make_mesh({"fsdp": -1}))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
found = []
jax.monitoring.register_event_listener(lambda event, **_: found.append(event.endswith("/cache_hits")))
jax.jit(lambda x: x * 2 + 1)(1.0)
print(any(found))
"""


def takes_from(folder: Path, devices: int) -> bool:
    """Whether a process on so many devices of the CPU finds its program in the folder."""
    command = [sys.executable, "-c", PROGRAM, str(devices), str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.stderr == ""
    return {"True\n": True, "False\n": False}[ended.stdout]


@pytest.mark.parametrize(("devices", "kept"), [(1, True), (2, False)])
def test_a_second_process_finds_what_the_first_compiled(devices: int, kept: bool, tmp_path: Path):
    folder = tmp_path / "compilation_cache"
    assert not takes_from(folder, devices)
    assert folder.exists() == kept
    assert takes_from(folder, devices) == kept
