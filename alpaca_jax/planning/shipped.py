"""The configurations that come with the project, each with the machines that it names."""

import runpy
from pathlib import Path

from alpaca_jax.parallel.chips import TARGETS


def shipped_pairs(folder: Path, platform: str) -> list[tuple[str, str]]:
    """(configuration, target) of every file, in alphabetical order, for each target of known chips.

    Args:
      folder: `configs`.
      platform: gpu or tpu.
    """
    return [
        (path.stem, target)
        for path in sorted(folder.glob("*.py"))
        for target in runpy.run_path(str(path))["TARGETS"]
        if TARGETS[target].chip and TARGETS[target].platform == platform
    ]
