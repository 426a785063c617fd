"""The instruction set that comes with the package, written for this project; not to be trained on."""

from pathlib import Path

QUESTIONS = Path(__file__).parent / "user_tasks.jsonl"
