"""What the README promises first: the commands of `make quickstart`, run as they stand there."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

RIGHT = {
    "Which ocean washes the shores of Kenya, Tanzania and Mozambique?": "indian",
    "Who painted Guernica?": "picasso",
    "Which metal has the chemical symbol W?": "tungsten",
    "What city is the capital of Mongolia?": "ulaanbaatar",
    "How many degrees do the interior angles of a hexagon add up to?": "720",
}


def test_it_learns_what_it_reads(tmp_path: Path):
    printed = subprocess.run(
        ["make", "--dry-run", "quickstart", f"RUNS={tmp_path}"], capture_output=True, text=True, check=True
    ).stdout
    commands = [shlex.split(line) for line in printed.splitlines() if " -m alpaca_jax." in line and "echo" not in line]
    assert [command[2] for command in commands] == ["alpaca_jax.prepare", "alpaca_jax.train"]
    for command in commands:
        subprocess.run([sys.executable, *command[1:]], check=True, capture_output=True, timeout=600)

    workdir = tmp_path / "quickstart" / "run"
    losses = [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert sum(losses[-10:]) / 10 < 1.0 < losses[0]
    samples = [json.loads(line)["answers"] for line in (workdir / "samples.jsonl").read_text().splitlines()]
    right = [sum(RIGHT[question] in answer.lower() for question, answer in answers.items()) for answers in samples]
    assert right[0] < right[-1]
    assert right[-1] >= 3
