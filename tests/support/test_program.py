"""How a program starts, where that shows outside it."""

import os
import subprocess
import sys

_ASKS_JAX = """
from alpaca_jax.support.program import run_program

def main():
    import jax
    return 0 * jax.device_count()

run_program(main)
"""


def test_a_compiler_for_gpus_that_are_not_here_is_not_heard():
    """The tests' environment has JAX's plugin for NVIDIA, for the planner; no user's program may complain of it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    end = subprocess.run(
        [sys.executable, "-c", _ASKS_JAX],
        env={**environment, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (end.returncode, end.stdout, end.stderr) == (0, "", "")
