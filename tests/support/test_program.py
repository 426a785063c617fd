"""How a program starts, where that shows outside it."""

import os
import subprocess
import sys

import pytest

from alpaca_jax.support.errors import UserError
from alpaca_jax.support.program import require_extra

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


def test_what_needs_an_extra_names_it(monkeypatch: pytest.MonkeyPatch):
    require_extra("config.logging.wandb_project", "wandb", "json")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"^config\.logging\.wandb_project: .*Install alpaca-jax\[wandb\]\.$"):
        require_extra("config.logging.wandb_project", "wandb", "json", "wandb")
