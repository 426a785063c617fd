import json
import subprocess
import sys
from pathlib import Path

from alpaca_jax.data.embedded import SEED_TASKS, TOKENIZER

TOOL = Path(__file__).parents[2] / "tools" / "measure_watermark.py"


def measure(*flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(TOOL), f"--input={SEED_TASKS}", f"--tokenizer={TOKENIZER}", *flags]
    environment = {"PYTHONPATH": ".", "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=TOOL.parents[1], env=environment, capture_output=True, text=True)


def test_false_positives_of_the_embedded_answers():
    done = measure("--pairs=50000", "--gamma=0.25", "--context_width=1", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["unmarked"]
    assert 50_000 <= found["pairs"] == found["texts"] * found["keys"]
    assert found["pairs"] == sum(each["pairs"] for each in found["by_length"].values())
    # Short texts reach z > 4 more often than the normal distribution says; none of them is called marked for that.
    assert found["detected"] < found["z_above_4"] < 5e-4 * found["pairs"]
    assert found["rate"] == found["detected"] / found["pairs"] < 1e-4 + 3 * (1e-4 / found["pairs"]) ** 0.5
    assert found["rate"] < found["rate_at_most"] < 1


def test_half_of_the_flags_is_refused():
    done = measure("--key=key.json")
    assert done.returncode == 2
    assert "--base_url with --key" in done.stderr
