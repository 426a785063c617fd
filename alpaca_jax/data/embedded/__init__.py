"""The data that comes with the package: 175 seed tasks written for this project, and a small tokenizer for them."""

from pathlib import Path

_FOLDER = Path(__file__).parent

SEED_TASKS = _FOLDER / "seed_tasks.jsonl"
TOKENIZER = _FOLDER / "tokenizer.model"
