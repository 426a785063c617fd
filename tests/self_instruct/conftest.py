"""What the tests of the program share: short waits, a key that must never be written, and a file of seeds."""

import json
from pathlib import Path

import pytest

from alpaca_jax.remote import client

KEY = "sk-a-key-that-no-file-may-hold"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(client, "LONGEST_WAIT_SECONDS", 0.05)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    """Ten seed tasks, every other one a classification."""
    path = tmp_path / "seeds.jsonl"
    tasks = [
        {
            "id": f"seed {number}",
            "instruction": f"Task {number} of the seeds, about {'abcdefghij'[number] * 3}:",
            "instances": [{"input": "" if number % 3 else f"input {number}", "output": f"output {number}"}],
            "is_classification": bool(number % 2),
        }
        for number in range(10)
    ]
    path.write_text("".join(json.dumps(task) + "\n" for task in tasks))
    return path
