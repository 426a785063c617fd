import json
import subprocess
import sys
from pathlib import Path

from alpaca_jax.data.embedded import TOKENIZER

TOOL = Path(__file__).parents[2] / "tools" / "measure_convert.py"


def test_figures_of_a_tiny_model(tmp_path):
    flags = [f"--tokenizer={TOKENIZER}", f"--work={tmp_path / 'work'}", "--preset=tiny", "--steps=diff", "--repeat=1"]
    done = subprocess.run(
        [sys.executable, str(TOOL), *flags, "--json"],
        cwd=TOOL.parents[1],
        env={"PYTHONPATH": ".", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    figures = json.loads(done.stdout)["diff"]
    assert 0.01 < figures["peak_gib"] < 2
    assert figures["ratio"] == figures["seconds"] / figures["copy_seconds"]
    assert not (tmp_path / "work").exists()
